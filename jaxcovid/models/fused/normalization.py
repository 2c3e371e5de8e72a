"""Moments and gradients of batch normalisation, in the pieces that the fused functions need.

Layers of a dense block share the moments of a channel, and the gradient by these moments is summed
per channel and spread over the map once; so the backward pass of a normalisation comes in two
pieces, `NormSums.backward` and `moments_backward`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcovid.models.layers import AxisName, accumulation_dtype
from jaxcovid.models.normalization import EPSILON, Affine, Moments, device_count


def pool_moments(parts: Moments) -> Moments:
    """Moments [c] of a map from those of parts of equal size, [parts, c]."""
    mean = parts.mean.mean(0)
    return Moments(mean, parts.var.mean(0) + jnp.square(parts.mean - mean[None]).mean(0))


def one_pass_moments(x: jax.Array) -> Moments:
    """Moments of a map [b, h, w, c] in one pass, accumulated in float32.

    By the deviations from the pixel in the middle of the first image, which is about as far from
    the mean as any: from 0 instead, E[x^2] - E[x]^2 loses the digits of a small variance.
    """
    dtype = accumulation_dtype(x.dtype)
    _, h, w, _ = x.shape
    middle = x[:1, h // 2, w // 2][:, None, None].astype(dtype)
    deviation = x.astype(dtype) - middle
    pixels = x.size // x.shape[-1]
    mean, square = (total / pixels for total in sum_together(deviation, jnp.square(deviation)))
    return Moments(middle.reshape(-1) + mean, jnp.maximum(square - jnp.square(mean), 0))


def sum_together(a: jax.Array, b: jax.Array) -> list[jax.Array]:
    """Sums of two maps over pixels by one reduction, which is fewer kernels on a GPU than two."""
    zero = jnp.zeros((), a.dtype)
    return jax.lax.reduce(
        (a, b),
        (zero, zero),
        lambda one, other: (one[0] + other[0], one[1] + other[1]),
        tuple(range(a.ndim - 1)),
    )


def join_moments(*parts: Moments) -> Moments:
    """Moments of a channel-wise concatenation from the moments of its parts."""
    return Moments(*(jnp.concatenate(field) for field in zip(*parts, strict=True)))


def pixel_count(x: jax.Array, axis_name: AxisName) -> int:
    """The number of pixels of a map like `x` [b, h, w, c] on all devices together."""
    return device_count(axis_name) * math.prod(x.shape[:-1])


def share_gradient(dmoments: Moments, axis_name: AxisName) -> Moments:
    """Gradient by shared moments from what the rows of each device add to it: one all-reduce."""
    if device_count(axis_name) == 1:
        return dmoments
    return Moments(*jax.lax.psum(jnp.stack(dmoments), axis_name))


class NormSums(NamedTuple):
    """Sums over pixels, float32 [c], from which the gradients of a normalisation are made.

    Attributes:
      dy: sum of the gradient by the normalised map.
      dy_deviation: sum of that gradient times the deviation of the map from its mean.
    """

    dy: jax.Array
    dy_deviation: jax.Array

    @classmethod
    def over_pixels(cls, dy: jax.Array, x: jax.Array, moments: Moments) -> "NormSums":
        """The sums over some images of the map `x` [b, h, w, c] that has these moments."""
        dy_deviation = dy * (x - moments.mean.reshape(1, 1, 1, -1))
        return cls(
            *(v.sum((0, 1, 2), dtype=accumulation_dtype(v.dtype)) for v in (dy, dy_deviation))
        )

    def backward(self, gamma: jax.Array, moments: Moments) -> tuple[jax.Array, jax.Array, Moments]:
        """dgamma, dbeta and dmoments, if these are the sums of the chunks, [chunks, c].

        Ioffe & Szegedy, arXiv:1502.03167, section 3, with the gradient by the map itself left out.
        """
        dy, dy_deviation = self.dy.sum(0), self.dy_deviation.sum(0)
        inverse = jax.lax.rsqrt(moments.var + EPSILON)
        dmoments = Moments(-gamma * inverse * dy, -0.5 * gamma * inverse**3 * dy_deviation)
        return dy_deviation * inverse, dy, dmoments


def moments_backward(moments: Moments, dmoments: Moments, pixels: int) -> Affine:
    """The gradient by a map that goes through its moments, as a function of the map.

    Args:
      moments: of the map.
      dmoments: gradient by the moments.
      pixels: of the map, on all devices.
    """
    slope = (2 / pixels) * dmoments.var
    return Affine(slope, dmoments.mean / pixels - slope * moments.mean)
