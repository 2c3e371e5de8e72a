"""Batch normalisation, ReLU and 1x1 convolution on accelerators, with the sums that others need."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcovid.models.fused.normalization import NormSums, one_pass_moments
from jaxcovid.models.layers import accumulation_dtype
from jaxcovid.models.normalization import EPSILON, Affine, Moments


def multiply(x: jax.Array, norm: Affine, w: jax.Array) -> tuple[jax.Array, Moments]:
    """relu(norm(x[..., :c])) w, and its moments.

    Args:
      x: [b, h, w, c or more].
      norm: of the first c channels.
      w: [c, m], float32; the product runs in the dtype of `x`.

    Returns:
      The product [b, h, w, m], dtype of `x`, and the moments of the rows of this device.
    """
    y = jnp.dot(norm.relu(x[..., : w.shape[0]]), w.astype(x.dtype))
    return y, one_pass_moments(y)


class ProductSums(NamedTuple):
    """Sums over pixels that give all gradients by the parameters of `multiply`.

    With a = gamma / sqrt(var + epsilon), y = relu(a (x - mean) + beta) and dp the gradient by the
    product y w: y is `on` (a (x - mean) + beta) with `on` = 1 where y > 0, so that y^T dp is a
    combination of the two sums below; and the gradient by the normalised map is `on` (dp w^T), so
    that its sums over pixels are those of rows of `w` times theirs. So the backward pass of the
    normalisation needs no pass over the map, beside the product that `w` needs in any case.

    Attributes:
      positive: on^T dp, float32 [c, m].
      deviations: (on (x - mean))^T dp, float32 [c, m].
    """

    positive: jax.Array
    deviations: jax.Array

    def backward(
        self, w: jax.Array, gamma: jax.Array, beta: jax.Array, moments: Moments
    ) -> tuple[jax.Array, jax.Array, jax.Array, Moments]:
        """Dw [c, m], dgamma, dbeta and dmoments, as `NormSums.backward`."""
        slope = gamma * jax.lax.rsqrt(moments.var + EPSILON)
        dw = slope[:, None] * self.deviations + beta[:, None] * self.positive
        sums = NormSums((w * self.positive).sum(1)[None], (w * self.deviations).sum(1)[None])
        return dw, *sums.backward(gamma, moments)


def multiply_backward(
    x: jax.Array, norm: Affine, mean: jax.Array, w: jax.Array, dproduct: jax.Array
) -> tuple[jax.Array, ProductSums]:
    """The backward pass of `multiply`.

    Args:
      x: [b, h, w, c or more].
      norm: of the first c channels.
      mean: of the channels, float32 [c or more].
      w: [c, m], float32; the product runs in the dtype of `x`.
      dproduct: gradient by the product [b, h, w, m], dtype of `x`.

    Returns:
      The gradient by the map after ReLU, [b, h, w, c], dtype of `x`, and the sums.
    """
    c = w.shape[0]
    part = x[..., :c]
    on = norm(part) > 0
    deviations = jnp.where(on, part - mean[:c].reshape(1, 1, 1, -1), 0)

    def over_pixels(values: jax.Array) -> jax.Array:
        return jax.lax.dot_general(
            values.astype(x.dtype),
            dproduct,
            (((0, 1, 2), (0, 1, 2)), ((), ())),
            preferred_element_type=accumulation_dtype(x.dtype),
        )

    dy = jnp.dot(dproduct, w.astype(x.dtype).T)
    return dy, ProductSums(over_pixels(on), over_pixels(deviations))
