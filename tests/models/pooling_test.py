"""The gradient of the maximum written for a CPU against XLA's, and against PyTorch's ties."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxcovid.models.fused.pooling import average_pool, max_pool

max_pool_cpu = partial(max_pool, platform="cpu")


def _random(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).standard_normal(shape), jnp.float32)


def _gradient(function, x):
    weights = _random(*jax.eval_shape(function, x).shape)
    return jax.jit(jax.grad(lambda x: (function(x) * weights).sum()))(x)


def _usual_pool(x):
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (6, 9), (1, 1), (2, 1)])
def test_max_pool_gradient_without_ties(height, width):
    x = _random(2, height, width, 4)
    for pool in (max_pool_cpu, partial(max_pool, platform="tpu")):
        np.testing.assert_array_equal(pool(x), _usual_pool(x))
    np.testing.assert_allclose(
        _gradient(max_pool_cpu, x), _gradient(_usual_pool, x), rtol=1e-6, atol=1e-6
    )


def test_max_pool_gradient_of_ties_goes_to_the_first():
    x = jnp.ones((1, 4, 4, 1))
    gradient = jax.grad(lambda x: max_pool_cpu(x).sum())(x)[0, :, :, 0]
    expected = np.zeros((4, 4))
    expected[0, 0] = expected[0, 1] = expected[1, 0] = expected[1, 1] = 1
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7)])
def test_average_pool_drops_an_odd_edge(height, width):
    x = _random(2, height, width, 3)
    expected = nn.avg_pool(x, (2, 2), strides=(2, 2))
    for platform in ("cpu", "tpu"):
        actual = average_pool(x, platform=platform)
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)
