"""Stem and transition against the same functions as everyone writes them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcovid.models.fused import downsampling, stem_accelerator
from jaxcovid.models.normalization import Moments


def _random(*shape, mean=0.0):
    return jnp.asarray(mean + np.random.default_rng(sum(shape)).standard_normal(shape), jnp.float32)


def _row(v):
    return v.reshape(1, 1, 1, -1)


def _normalise_relu(x, gamma, beta, moments):
    mean, var = map(_row, moments)
    return jax.nn.relu((x - mean) / jnp.sqrt(var + 1e-5) * _row(gamma) + _row(beta))


def _moments(x):
    return Moments(x.mean((0, 1, 2)), x.var((0, 1, 2)))


def _conv(x, kernel, stride):
    margin = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(margin, margin)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _usual_stem(image, kernel, gamma, beta, moments=None):
    x = _conv(image, kernel, 2)
    moments = moments or _moments(x)
    y = _normalise_relu(x, gamma, beta, moments)
    window = ((0, 0), (1, 1), (1, 1), (0, 0))
    y = jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), window)
    return y, moments


def _usual_transition(x, kernel, gamma, beta, moments):
    y = _conv(_normalise_relu(x, gamma, beta, moments), kernel, 1)
    b, h, w, c = y.shape
    y = y[:, : h // 2 * 2, : w // 2 * 2]
    return y.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _close(actual, expected):
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one / scale, other / scale, atol=2e-5)


def _gradients(function, operands):
    """By all operands, of a loss that weighs every output differently."""
    weights = jax.tree.map(lambda x: _random(*x.shape), jax.eval_shape(function, *operands))

    def loss(*operands):
        products = jax.tree.map(lambda y, w: (y * w).sum(), function(*operands), weights)
        return sum(jax.tree.leaves(products))

    return jax.jit(jax.grad(loss, argnums=tuple(range(len(operands)))))(*operands)


@pytest.mark.parametrize("shape", [(4, 16, 16, 1), (3, 13, 10, 3)])
def test_stem(execution, shape):
    gamma, beta = _random(8, mean=1.0), _random(8)
    operands = _random(*shape), _random(7, 7, shape[-1], 8), gamma, beta
    form = downsampling if execution.platform == "cpu" else stem_accelerator
    stem = partial(form.stem, execution=execution)
    _close(jax.jit(stem)(*operands), jax.jit(_usual_stem)(*operands))
    moments = Moments(_random(8), jnp.abs(_random(8)) + 0.5)
    infer_stem = partial(downsampling.infer_stem, execution=execution)
    _close(jax.jit(infer_stem)(*operands, moments), jax.jit(_usual_stem)(*operands, moments)[0])
    actual, expected = (
        _gradients(lambda *args, f=f: f(*args)[0], operands) for f in (stem, _usual_stem)
    )
    _close(actual, expected)


@pytest.mark.parametrize("shape", [(4, 8, 8, 6), (3, 7, 5, 6)])
def test_transition(execution, shape):
    x = _random(*shape, mean=1.0)
    operands = x, _random(1, 1, 6, 4), _random(6, mean=1.0), _random(6), _moments(x)
    transition = partial(downsampling.transition, execution=execution)
    _close(jax.jit(transition)(*operands), jax.jit(_usual_transition)(*operands))
    _close(_gradients(transition, operands), _gradients(_usual_transition, operands))
