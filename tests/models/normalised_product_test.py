"""The sums of normalise + ReLU + 1x1 convolution on accelerators give all its gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcovid.models.fused import normalised_product
from jaxcovid.models.normalization import Moments, fold_norm


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
            jnp.asarray(x), norm, moments.mean, jnp.asarray(w), jnp.asarray(slope)
        )
        actual = sums.backward(w, gamma, beta, moments)[:3]
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)
