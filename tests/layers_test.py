"""The gradients written for a CPU against those that XLA derives, and against PyTorch's ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxcovid.models import layers


def _random(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(sum(shape)).standard_normal(shape), jnp.float32)


def _gradients(function, *operands):
    weights = _random(*jax.eval_shape(function, *operands).shape)
    return jax.jit(
        jax.grad(lambda *args: (function(*args) * weights).sum(), argnums=range(len(operands)))
    )(*operands)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (1, 1)])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_gradients_are_those_of_the_convolution(size, height, width):
    x, kernel = _random(3, height, width, 16), _random(size, size, 16, 12)
    g = _random(3, height, width, 12)
    _, pullback = jax.vjp(layers.convolve, x, kernel)
    for got, wanted in zip(layers.gradients(x, kernel, g), pullback(g), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_weight_gradient_of_a_strided_convolution():
    x, kernel, g = _random(3, 12, 10, 2), _random(7, 7, 2, 8), _random(3, 6, 5, 8)
    _, pullback = jax.vjp(lambda k: layers.convolve(x, k, stride=2), kernel)
    got = layers.strided_weight_gradient(x, g, 7, stride=2)
    np.testing.assert_allclose(got, *pullback(g), rtol=1e-4, atol=1e-4)


def _reference_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (6, 9), (1, 1), (2, 1)])
def test_max_pool_gradient_without_ties(height, width):
    x = _random(2, height, width, 4)
    np.testing.assert_array_equal(layers._max_pool_cpu(x), _reference_pool(x))
    (got,), (wanted,) = _gradients(layers._max_pool_cpu, x), _gradients(_reference_pool, x)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_max_pool_gradient_of_ties_goes_to_the_first():
    x = jnp.ones((1, 4, 4, 1))
    gradient = jax.grad(lambda x: layers._max_pool_cpu(x).sum())(x)[0, :, :, 0]
    expected = np.zeros((4, 4))
    expected[0, 0] = expected[0, 1] = expected[1, 0] = expected[1, 1] = 1
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7)])
def test_average_pool_drops_an_odd_edge_as_before(height, width):
    x = _random(2, height, width, 3)
    wanted = nn.avg_pool(x, (2, 2), strides=(2, 2))
    np.testing.assert_allclose(layers.average_pool(x), wanted, rtol=1e-6, atol=1e-6)
