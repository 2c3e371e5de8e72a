"""The stem and the transitions of a DenseNet, as functions with a backward pass of their own.

They hold the largest maps of the network. Between their pixels and their smaller result there are
only elementwise operations, so that an image goes through all of them while it lies in the cache;
see `chunks`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxcovid.models.chunks import Chunks
from jaxcovid.models.layers import (
    average_pool,
    convolve,
    gradients,
    max_pool,
    strided_weight_gradient,
)
from jaxcovid.models.normalization import (
    Moments,
    NormalisedSums,
    batch_moments,
    moments_gradient,
    normalisation,
    pixel_count,
    pool_moments,
    share_gradient,
    share_moments,
)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def stem(
    image: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    axis_name: str | None = None,
) -> tuple[jax.Array, Moments]:
    """Convolution at stride 2, batch normalisation over the batch, ReLU, 3x3 maximum at stride 2.

    Args:
      image: [b, h, w, c], any floating dtype; products run in it.
      kernel: [k, k, c, d].
      scale: of the normalisation, float32 [d].
      bias: likewise.
      axis_name: see `normalization`.

    Returns:
      The map [b, h / 4, w / 4, d], and the moments before normalisation, which carry no gradient.
    """
    return _stem_forward(image, kernel, scale, bias, axis_name)[0]


def infer_stem(
    image: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array, moments: Moments
) -> jax.Array:
    """The map of `stem` in inference mode, with given moments."""
    normalise = normalisation(scale, bias, moments)
    chunks = Chunks(_room(image, kernel, 2))

    def of_chunk(index: Any, whole: jax.Array) -> tuple[jax.Array, None]:
        part = convolve(chunks.read(image, index), kernel.astype(image.dtype), stride=2)
        return chunks.write(whole, max_pool(normalise.relu(part)), index), None

    return chunks.each(of_chunk, _room(image, kernel, 4))[0]


def _room(image: jax.Array, kernel: jax.Array, reduction: int) -> jax.Array:
    b, h, w, _ = image.shape
    return jnp.zeros((b, -(-h // reduction), -(-w // reduction), kernel.shape[-1]), image.dtype)


def _stem_forward(
    image: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array, axis_name: str | None
) -> tuple[Any, Any]:
    x = _room(image, kernel, 2)
    chunks = Chunks(x)

    def convolved(index: Any, whole: jax.Array) -> tuple[jax.Array, Moments]:
        part = convolve(chunks.read(image, index), kernel.astype(image.dtype), stride=2)
        return chunks.write(whole, part, index), batch_moments(part)

    x, moments = chunks.each(convolved, x)
    moments = share_moments(pool_moments(moments), axis_name)
    normalise = normalisation(scale, bias, moments)

    def pooled(index: Any, whole: jax.Array) -> tuple[jax.Array, None]:
        part = max_pool(normalise.relu(chunks.read(x, index)))
        return chunks.write(whole, part, index), None

    out, _ = chunks.each(pooled, _room(image, kernel, 4))
    return (out, moments), (image, kernel, scale, bias, x, moments)


def _stem_backward(axis_name: str | None, saved: Any, cotangents: Any) -> Any:
    image, kernel, scale, bias, x, moments = saved
    gradient, _ = cotangents
    chunks = Chunks(x)
    normalise = normalisation(scale, bias, moments)

    def to_normalised(index: Any, whole: jax.Array) -> tuple[jax.Array, NormalisedSums]:
        part = chunks.read(x, index)
        y = normalise.relu(part)
        (by_y,) = jax.vjp(max_pool, y)[1](chunks.read(gradient, index))
        dn = jnp.where(y > 0, by_y, 0)
        return chunks.write(whole, dn, index), NormalisedSums.of(dn, part, moments)

    by_normalised, sums = chunks.each(to_normalised, jnp.zeros_like(x))
    by_scale, by_bias, moments_part = sums.gradients(scale, moments)
    by_moments = moments_gradient(
        moments, share_gradient(moments_part, axis_name), pixel_count(x, axis_name)
    )

    def by_convolved(index: Any) -> jax.Array:
        dx = normalise.gradient(chunks.read(by_normalised, index))
        return (dx + by_moments.of(chunks.read(x, index))).astype(x.dtype)

    def to_kernel(index: Any, by_kernel: jax.Array) -> tuple[jax.Array, None]:
        part = chunks.read(image, index)
        more = strided_weight_gradient(part, by_convolved(index), kernel.shape[0], stride=2)
        return by_kernel + more, None

    def to_image(index: Any, by_image: jax.Array) -> tuple[jax.Array, None]:
        part = jax.linear_transpose(
            lambda part: convolve(part, kernel.astype(x.dtype), stride=2), chunks.read(image, index)
        )(by_convolved(index))[0]
        return chunks.write(by_image, part, index), None

    by_kernel, _ = chunks.each(to_kernel, jnp.zeros_like(kernel))
    # Nothing trains on it, and what is not used is not computed.
    by_image, _ = chunks.each(to_image, jnp.zeros_like(image))
    return by_image, by_kernel, by_scale, by_bias


stem.defvjp(_stem_forward, _stem_backward)


@jax.custom_vjp
def transition(
    x: jax.Array, kernel: jax.Array, scale: jax.Array, bias: jax.Array, moments: Moments
) -> jax.Array:
    """Batch normalisation, ReLU, 2x2 average, 1x1 convolution.

    The average comes before the convolution, unlike in the paper of DenseNet: both are linear, and
    the product shrinks to a quarter.

    Args:
      x: [b, h, w, c], any floating dtype; the product runs in it.
      kernel: [1, 1, c, d].
      scale: of the normalisation, float32 [c].
      bias: likewise.
      moments: of `x`; they get their gradient.

    Returns:
      The map [b, h // 2, w // 2, d].
    """
    chunks = Chunks(x)
    normalise = normalisation(scale, bias, moments)

    def of_chunk(index: Any, whole: jax.Array) -> tuple[jax.Array, None]:
        part = average_pool(normalise.relu(chunks.read(x, index)))
        return chunks.write(whole, convolve(part, kernel.astype(x.dtype)), index), None

    b, h, w, _ = x.shape
    return chunks.each(of_chunk, jnp.zeros((b, h // 2, w // 2, kernel.shape[-1]), x.dtype))[0]


def _transition_forward(*operands: Any) -> tuple[jax.Array, Any]:
    return transition(*operands), operands


def _transition_backward(saved: Any, gradient: jax.Array) -> Any:
    x, kernel, scale, bias, moments = saved
    chunks = Chunks(x)
    normalise = normalisation(scale, bias, moments)

    def of_chunk(index: Any, done: Any) -> tuple[Any, NormalisedSums]:
        by_x, by_kernel = done
        part = chunks.read(x, index)
        y = normalise.relu(part)
        averages, to_averaged = jax.vjp(average_pool, y)
        g = chunks.read(gradient, index)
        by_averages, more = gradients(averages, kernel.astype(x.dtype), g)
        dn = jnp.where(y > 0, to_averaged(by_averages)[0], 0)
        dx = normalise.gradient(dn).astype(x.dtype)
        done = chunks.write(by_x, dx, index), by_kernel + more
        return done, NormalisedSums.of(dn, part, moments)

    (by_x, by_kernel), sums = chunks.each(of_chunk, (jnp.zeros_like(x), jnp.zeros_like(kernel)))
    return by_x, by_kernel, *sums.gradients(scale, moments)


transition.defvjp(_transition_forward, _transition_backward)
