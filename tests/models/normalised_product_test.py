"""Normalise + ReLU + 1x1 convolution on accelerators: XLA's form and the kernels are one function.

The kernels run interpreted, without a GPU.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcovid.models.fused import normalised_product, product_kernels
from jaxcovid.models.fused.execution import Execution
from jaxcovid.models.fused.normalization import pool_in_one_pass
from jaxcovid.models.normalization import Affine, Moments, fold_norm

ROWS, CHANNELS, READ, WIDTH = 256, 160, 96, 64  # two groups of channels, the second half empty


def arguments(dtype=jnp.bfloat16):
    """x, norm, mean, w and the gradient by the product."""
    rng = np.random.default_rng(0)

    def normal(*shape, dtype=dtype):
        return jnp.asarray(rng.normal(size=shape), dtype)

    norm = Affine(normal(READ, dtype=jnp.float32), normal(READ, dtype=jnp.float32))
    mean = normal(READ, dtype=jnp.float32)
    return (
        normal(ROWS, CHANNELS),
        norm,
        mean,
        normal(READ, WIDTH) / np.sqrt(READ),
        normal(ROWS, WIDTH),
    )


def as_images(rows):
    return rows.reshape(4, 8, 8, -1)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_kernel_of_the_product_is_the_form_by_xla(dtype):
    x, norm, _, w, _ = arguments(dtype)
    actual, parts = product_kernels.normalised_product(x, norm, w, interpret=True)
    expected, moments = normalised_product.multiply(as_images(x), norm, w, Execution("tpu"))
    assert actual.dtype == dtype
    tolerance = 1e-2 if dtype == jnp.bfloat16 else 1e-5  # bfloat16 has 8 digits of two
    np.testing.assert_allclose(
        actual.astype(np.float32),
        expected.reshape(ROWS, WIDTH).astype(np.float32),
        rtol=tolerance,
        atol=tolerance,
    )
    assert parts.mean.shape == (ROWS // 128, WIDTH)
    for one, other in zip(pool_in_one_pass(parts), moments, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_kernel_of_the_backward_pass_is_the_form_by_xla(dtype):
    x, norm, mean, w, dproduct = arguments(dtype)
    dy, sums = product_kernels.product_backward(x, norm, mean, w, dproduct, interpret=True)
    expected_dy, expected = normalised_product.multiply_backward(
        as_images(x), norm, mean, w, as_images(dproduct), Execution("tpu")
    )
    tolerance = 1e-2 if dtype == jnp.bfloat16 else 1e-5
    np.testing.assert_allclose(
        dy.astype(np.float32),
        expected_dy.reshape(ROWS, READ).astype(np.float32),
        rtol=tolerance,
        atol=tolerance,
    )
    assert sums.dtype == jnp.float32
    for one, other in zip(sums, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_the_sums_give_all_gradients():
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        x, w = rng.normal(size=(2, 4, 4, 6)), rng.normal(size=(6, 3))
        gamma, beta = rng.normal(size=6), rng.normal(size=6)
        slope = rng.normal(size=(2, 4, 4, 3))

        def loss(w, gamma, beta):
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            scaled = (x - mean) / np.sqrt(var + 1e-5) * gamma.reshape(1, 1, 1, -1)
            return (jnp.maximum(scaled + beta.reshape(1, 1, 1, -1), 0) @ w * slope).sum()

        expected = jax.grad(loss, argnums=(0, 1, 2))(w, gamma, beta)
        moments = Moments(x.mean((0, 1, 2)), x.var((0, 1, 2)))
        norm = fold_norm(gamma, beta, moments)
        _, sums = normalised_product.multiply_backward(
            jnp.asarray(x), norm, moments.mean, jnp.asarray(w), jnp.asarray(slope), Execution("tpu")
        )
        actual = sums.backward(w, gamma, beta, moments)[:3]
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


def test_kernels_take_what_fits_their_tiles():
    assert normalised_product.kernels_take(128, 96, 128, jnp.bfloat16)
    assert not normalised_product.kernels_take(100, 96, 128, jnp.bfloat16)
    assert not normalised_product.kernels_take(128, 90, 128, jnp.bfloat16)
    assert not normalised_product.kernels_take(128, 96, 24, jnp.bfloat16)
    assert not normalised_product.kernels_take(128, 96, 128, jnp.float64)
