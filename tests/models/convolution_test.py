"""The gradients of convolutions as products against those that XLA derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcovid.models.fused.convolution import convolve_backward, strided_weight_gradient
from jaxcovid.models.layers import convolve


def _random(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (1, 1)])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_gradients_of_a_convolution(size, height, width):
    x, w = _random(3, height, width, 16), _random(size, size, 16, 12)
    dy = _random(3, height, width, 12)
    actual, expected = (
        convolve_backward(x, w, dy),
        jax.vjp(convolve, x, w)[1](dy),
    )
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_weight_gradient_of_a_strided_convolution():
    x, w, dy = _random(3, 12, 10, 2), _random(7, 7, 2, 8), _random(3, 6, 5, 8)
    (expected,) = jax.vjp(lambda w: convolve(x, w, stride=2), w)[1](dy)
    actual = strided_weight_gradient(x, dy, 7, stride=2)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_weight_gradients_of_bfloat16_are_float32():
    x, w, dy = (
        _random(*s).astype(jnp.bfloat16) for s in ((2, 8, 8, 4), (3, 3, 4, 6), (2, 8, 8, 6))
    )
    dx, dw = convolve_backward(x, w, dy)
    assert (dx.dtype, dw.dtype) == (jnp.bfloat16, jnp.float32)
    strided = strided_weight_gradient(x, dy[:, ::2, ::2], 3, stride=2)
    assert strided.dtype == jnp.float32
