"""The dense block of kernels for a GPU is the form by XLA, which other tests hold to the plain one.

The kernels run interpreted, without a GPU.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcovid.models.fused import dense_block_accelerator
from jaxcovid.models.fused.dense_block import LayerWeights
from jaxcovid.models.fused.execution import Execution
from jaxcovid.models.fused.gpu import convolution, dense_block, product, sums
from jaxcovid.models.fused.normalization import NormSums, moments_backward, pool_moments
from jaxcovid.models.layers import convolve
from jaxcovid.models.normalization import Affine, Moments

IMAGES, HEIGHT, WIDTH = 4, 16, 8  # four tiles of 128 pixels
CHANNELS, BETWEEN, ADDED = 96, 128, 32
GPU = Execution("gpu")
RNG = np.random.default_rng(0)
# Maps are rounded to bfloat16, of 8 digits of two; sums over them to float32.
ROUNDING = 1e-2


def normal(*shape, mean=0.0, scale=1.0, dtype=jnp.float32):
    return jnp.asarray(mean + scale * RNG.standard_normal(shape), dtype)


def image_map(channels):
    return normal(IMAGES, HEIGHT, WIDTH, channels, mean=1.0, dtype=jnp.bfloat16)


def rows(x):
    return x.reshape(-1, x.shape[-1])


def row(v):
    return v[None]


def affine(channels):
    return Affine(normal(channels, mean=1.0, scale=0.3), normal(channels, scale=0.3))


def assert_near(actual, expected, tolerance=ROUNDING):
    """Equal but for so large a part of the expected array's norm."""
    assert actual.shape == expected.shape
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert np.linalg.norm(actual - expected) <= tolerance * np.linalg.norm(expected)


def kernels_of(*layers):
    """The last of the kernels of some layers, as a part of all."""
    array = jnp.concatenate([rows(layer) for layer in layers]).astype(jnp.bfloat16)
    last = rows(layers[-1])
    return product.Part(array, len(array) - len(last)), array[-len(last) :]


def test_a_product_and_its_moments():
    x, norm = image_map(CHANNELS + 64), affine(CHANNELS)
    part, w = kernels_of(normal(64, BETWEEN), normal(CHANNELS, BETWEEN, scale=0.1))
    actual, parts = product.normalised_product(rows(x), norm, part, interpret=True)
    expected = jnp.dot(norm.relu(x[..., :CHANNELS]), w)
    assert_near(actual, rows(expected))
    stored = actual.astype(jnp.float32)
    assert_near(pool_moments(parts).mean, stored.mean(0), 1e-5)
    assert_near(pool_moments(parts).var, stored.var(0), 1e-5)


def test_added_channels_replace_their_own_alone():
    x, between, norm = image_map(160), image_map(BETWEEN), affine(BETWEEN)
    part, w = kernels_of(*(normal(9 * BETWEEN, ADDED, scale=0.05) for _ in range(2)))
    actual, parts = convolution.add_channels(
        rows(x), 64, rows(between), norm, part, (HEIGHT, WIDTH), interpret=True
    )
    added = convolve(norm.relu(between), w.reshape(3, 3, BETWEEN, ADDED))
    assert_near(actual[:, 64:96], rows(added))
    np.testing.assert_array_equal(actual[:, :64], rows(x)[:, :64])
    np.testing.assert_array_equal(actual[:, 96:], rows(x)[:, 96:])
    assert_near(pool_moments(parts).mean, actual[:, 64:96].astype(jnp.float32).mean(0), 1e-5)


def test_gradients_of_the_convolution():
    between, norm, dadded = image_map(BETWEEN), affine(BETWEEN), image_map(ADDED)
    part, w = kernels_of(normal(9 * BETWEEN, ADDED, scale=0.05))
    mean = normal(BETWEEN)
    dnormalised, parts = convolution.map_gradient(
        rows(dadded), rows(between), norm, mean, part, (HEIGHT, WIDTH), interpret=True
    )
    dw = convolution.kernel_gradient(
        rows(between), norm, rows(dadded), (HEIGHT, WIDTH), interpret=True
    ).sum(0)
    kernel, y = w.reshape(3, 3, BETWEEN, ADDED), norm.relu(between)
    dy, expected_dw = jax.vjp(convolve, y, kernel)[1](dadded)
    expected = jnp.where(norm(between) > 0, dy, 0)
    assert_near(dnormalised, rows(expected))
    assert_near(rows(dw), rows(expected_dw))
    stored = dnormalised.astype(jnp.float32)
    assert_near(parts[0].sum(0), stored.sum(0), 1e-5)
    assert_near(parts[1].sum(0), (stored * (rows(between) - row(mean))).sum(0), 1e-5)


def test_gradients_of_the_product():
    x, norm, between = image_map(CHANNELS + 64), affine(CHANNELS), image_map(BETWEEN)
    part, w = kernels_of(normal(64, BETWEEN), normal(CHANNELS, BETWEEN, scale=0.1))
    mean, dnormalised = normal(CHANNELS + 64), image_map(BETWEEN)
    through, multiplier = affine(BETWEEN), normal(BETWEEN)
    gradient = product.ProductGradient(rows(dnormalised), rows(between), multiplier, through)
    dy, parts = product.product_backward(rows(x), norm, mean, part, gradient, interpret=True)
    dproduct = rows(dnormalised) * row(multiplier) + through(between).reshape(-1, BETWEEN)
    dproduct = dproduct.astype(jnp.bfloat16)
    assert_near(dy, jnp.dot(dproduct, w.T))
    on = rows(norm(x[..., :CHANNELS])) > 0
    deviations = jnp.where(on, rows(x)[:, :CHANNELS] - row(mean[:CHANNELS]), 0)
    assert_near(parts.sum(0)[0], on.astype(jnp.float32).T @ dproduct.astype(jnp.float32))
    assert_near(parts.sum(0)[1], deviations.T @ dproduct.astype(jnp.float32))


@pytest.mark.parametrize("tiles", [1, 24, 512])
def test_moments_of_tiles_are_joined_in_place_or_alone(tiles):
    parts = Moments(normal(tiles, 32, mean=3.0), jnp.square(normal(tiles, 32)))
    expected = pool_moments(parts)
    for one, other in zip(sums.join_moments(parts, interpret=True), expected, strict=True):
        assert_near(one, other, 1e-5)
    whole = Moments(normal(160), normal(160))
    joined = sums.join_moments(parts, whole, 64, interpret=True)
    for one, other, before in zip(joined, expected, whole, strict=True):
        assert_near(one[64:96], other, 1e-5)
        np.testing.assert_array_equal(one[:64], before[:64])
        np.testing.assert_array_equal(one[96:], before[96:])


def test_sums_of_tiles_give_the_gradients_of_a_normalisation():
    parts = normal(24, 32), normal(24, 32)
    gamma, moments = normal(32), Moments(normal(32), jnp.square(normal(32)))
    dgamma, dbeta, through = sums.join_norm_sums(parts, gamma, moments, 777, interpret=True)
    *expected, dmoments = NormSums(*parts).backward(gamma, moments)
    expected += moments_backward(moments, dmoments, 777)
    for one, other in zip((dgamma, dbeta, *through), expected, strict=True):
        assert_near(one, other, 1e-5)


def test_the_block_is_the_form_by_xla():
    """In float32: in bfloat16 a few values on the edge of a ReLU fall to either side."""
    layers = tuple(
        LayerWeights(
            normal(c, mean=1.0, scale=0.3),
            normal(c, scale=0.3),
            normal(1, 1, c, BETWEEN, scale=0.1),
            normal(BETWEEN, mean=1.0, scale=0.3),
            normal(BETWEEN, scale=0.3),
            normal(3, 3, BETWEEN, ADDED, scale=0.03),
        )
        for c in (64, 96, 128)
    )
    x = image_map(64)
    assert dense_block_accelerator.runs_by_kernels(x, layers, GPU)
    x = x.astype(jnp.float32)
    forms = (
        (dense_block_accelerator.train_forward, dense_block_accelerator.train_backward),
        (
            partial(dense_block.train_forward, interpret=True),
            partial(dense_block.train_backward, interpret=True),
        ),
    )
    results = []
    for forward, backward in forms:
        out, residuals = jax.jit(partial(forward, execution=GPU))(x, layers)
        cotangents = jax.tree.map(
            lambda a: jnp.sin(jnp.arange(a.size)).reshape(a.shape).astype(a.dtype), out
        )
        results.append((out, jax.jit(partial(backward, GPU))(residuals, cotangents)))
    for expected, actual in zip(*map(jax.tree.leaves, results), strict=True):
        assert actual.dtype == expected.dtype
        assert_near(actual, expected, 1e-4)


@pytest.mark.parametrize(
    ("platform", "dtype", "side", "added"),
    [
        ("tpu", jnp.bfloat16, 16, 32),
        ("gpu", jnp.float32, 16, 32),
        ("gpu", jnp.bfloat16, 5, 32),
        ("gpu", jnp.bfloat16, 16, 24),
    ],
)
def test_what_does_not_fit_the_tiles_runs_by_xla(platform, dtype, side, added):
    layer = LayerWeights(*[jnp.zeros(64)] * 2, None, *[None] * 2, jnp.zeros((3, 3, 128, added)))
    x = jnp.zeros((1, side, side, 64), dtype)
    assert not dense_block_accelerator.runs_by_kernels(x, (layer,), Execution(platform))
