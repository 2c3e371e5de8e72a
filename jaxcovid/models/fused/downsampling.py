"""The stem and the transitions of a DenseNet, as functions with a backward pass of their own.

They hold the largest maps of the network. Between their pixels and their smaller result there are
only elementwise operations, so that an image passes through all of them while it is in the cache
(see `chunks`); the normalised maps are not kept for the backward pass but computed again. GPUs and
TPUs train with `stem_accelerator`; the other functions serve all.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxcovid.models.fused.chunks import Chunks
from jaxcovid.models.fused.convolution import convolve_backward, strided_weight_gradient
from jaxcovid.models.fused.execution import Execution
from jaxcovid.models.fused.normalization import (
    NormSums,
    moments_backward,
    pixel_count,
    pool_moments,
    share_gradient,
)
from jaxcovid.models.fused.pooling import average_pool, max_pool
from jaxcovid.models.layers import convolve
from jaxcovid.models.normalization import Moments, batch_moments, fold_norm, share_moments


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def stem(
    image: jax.Array, w: jax.Array, gamma: jax.Array, beta: jax.Array, execution: Execution
) -> tuple[jax.Array, Moments]:
    """Convolution at stride 2, batch normalisation over the batch, ReLU, 3x3 maximum at stride 2.

    Args:
      image: [b, h, w, c], any floating dtype; products run in it.
      w: the kernel [k, k, c, d].
      gamma: scale of the normalisation, float32 [d].
      beta: shift of the normalisation, float32 [d].
      execution: how it runs.

    Returns:
      The map [b, h / 4, w / 4, d], and the moments before normalisation, which carry no gradient.
    """
    return _stem_forward(image, w, gamma, beta, execution)[0]


def infer_stem(
    image: jax.Array,
    w: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    moments: Moments,
    execution: Execution,
) -> jax.Array:
    """The map of `stem` in inference mode, with given moments."""
    norm = fold_norm(gamma, beta, moments)
    chunks = Chunks(_zeros(image, w, 2), execution)

    def run(index: Any, whole: jax.Array) -> tuple[jax.Array, None]:
        part = convolve(chunks.read(image, index), w.astype(image.dtype), stride=2)
        part = max_pool(norm.relu(part), platform=execution.platform)
        return chunks.write(whole, part, index), None

    return chunks.each(run, _zeros(image, w, 4))[0]


def _zeros(image: jax.Array, w: jax.Array, reduction: int) -> jax.Array:
    """Zeros [b, h / reduction, w / reduction, d], for a map of `image` to be written into."""
    rows, height, width, _ = image.shape
    shape = (rows, -(-height // reduction), -(-width // reduction), w.shape[-1])
    return jnp.zeros(shape, image.dtype)


def _stem_forward(
    image: jax.Array, w: jax.Array, gamma: jax.Array, beta: jax.Array, execution: Execution
) -> tuple[Any, Any]:
    x = _zeros(image, w, 2)
    chunks = Chunks(x, execution)

    def convolve_chunk(index: Any, whole: jax.Array) -> tuple[jax.Array, Moments]:
        part = convolve(chunks.read(image, index), w.astype(image.dtype), stride=2)
        return chunks.write(whole, part, index), batch_moments(part)

    x, moments = chunks.each(convolve_chunk, x)
    moments = share_moments(pool_moments(moments), execution.axis_name)
    norm = fold_norm(gamma, beta, moments)

    def pool_chunk(index: Any, whole: jax.Array) -> tuple[jax.Array, None]:
        part = max_pool(norm.relu(chunks.read(x, index)), platform=execution.platform)
        return chunks.write(whole, part, index), None

    out, _ = chunks.each(pool_chunk, _zeros(image, w, 4))
    return (out, moments), (image, w, gamma, beta, x, moments)


def _stem_backward(execution: Execution, residuals: Any, cotangents: Any) -> Any:
    image, w, gamma, beta, x, moments = residuals
    dout, _ = cotangents
    chunks = Chunks(x, execution)
    norm = fold_norm(gamma, beta, moments)
    pool = partial(max_pool, platform=execution.platform)

    def pool_backward(index: Any, whole: jax.Array) -> tuple[jax.Array, NormSums]:
        part = chunks.read(x, index)
        y = norm.relu(part)
        (dy,) = jax.vjp(pool, y)[1](chunks.read(dout, index))
        dn = jnp.where(y > 0, dy, 0)
        return chunks.write(whole, dn, index), NormSums.over_pixels(dn, part, moments)

    dnormalised, sums = chunks.each(pool_backward, jnp.zeros_like(x))
    dgamma, dbeta, dmoments = sums.backward(gamma, moments)
    dmoments = share_gradient(dmoments, execution.axis_name)
    through_moments = moments_backward(moments, dmoments, pixel_count(x, execution.axis_name))

    def dx_of_chunk(index: Any) -> jax.Array:
        dx = norm.backward(chunks.read(dnormalised, index))
        return (dx + through_moments(chunks.read(x, index))).astype(x.dtype)

    def add_to_dw(index: Any, dw: jax.Array) -> tuple[jax.Array, None]:
        part = chunks.read(image, index)
        more = strided_weight_gradient(part, dx_of_chunk(index), w.shape[0], stride=2)
        return dw + more, None

    def write_dimage(index: Any, dimage: jax.Array) -> tuple[jax.Array, None]:
        part = jax.linear_transpose(
            lambda part: convolve(part, w.astype(x.dtype), stride=2), chunks.read(image, index)
        )(dx_of_chunk(index))[0]
        return chunks.write(dimage, part, index), None

    dw, _ = chunks.each(add_to_dw, jnp.zeros_like(w))
    # Training does not use it, and XLA does not compute what is not used.
    dimage, _ = chunks.each(write_dimage, jnp.zeros_like(image))
    return dimage, dw, dgamma, dbeta


stem.defvjp(_stem_forward, _stem_backward)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def transition(
    x: jax.Array,
    w: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    moments: Moments,
    execution: Execution,
) -> jax.Array:
    """Batch normalisation, ReLU, 2x2 average, 1x1 convolution.

    The average comes before the convolution, unlike in the paper of DenseNet: both are linear, and
    the product shrinks to a quarter.

    Args:
      x: [b, h, w, c], any floating dtype; the product runs in it.
      w: the kernel [1, 1, c, d].
      gamma: scale of the normalisation, float32 [c].
      beta: shift of the normalisation, float32 [c].
      moments: of `x`; they get their gradient.
      execution: how it runs.

    Returns:
      The map [b, h // 2, w // 2, d].
    """
    chunks = Chunks(x, execution)
    norm = fold_norm(gamma, beta, moments)

    def run(index: Any, whole: jax.Array) -> tuple[jax.Array, None]:
        part = average_pool(norm.relu(chunks.read(x, index)), platform=execution.platform)
        return chunks.write(whole, convolve(part, w.astype(x.dtype)), index), None

    rows, height, width, _ = x.shape
    return chunks.each(run, jnp.zeros((rows, height // 2, width // 2, w.shape[-1]), x.dtype))[0]


def _transition_forward(*arguments: Any) -> tuple[jax.Array, Any]:
    return transition(*arguments), arguments[:5]


def _transition_backward(execution: Execution, residuals: Any, dout: jax.Array) -> Any:
    x, w, gamma, beta, moments = residuals
    chunks = Chunks(x, execution)
    norm = fold_norm(gamma, beta, moments)

    def run(index: Any, carry: Any) -> tuple[Any, NormSums]:
        dx, dw = carry
        part = chunks.read(x, index)
        y = norm.relu(part)
        pool = partial(average_pool, platform=execution.platform)
        averages, average_backward = jax.vjp(pool, y)
        dpart = chunks.read(dout, index)
        daverages, more = convolve_backward(averages, w.astype(x.dtype), dpart)
        dn = jnp.where(y > 0, average_backward(daverages)[0], 0)
        carry = chunks.write(dx, norm.backward(dn).astype(x.dtype), index), dw + more
        return carry, NormSums.over_pixels(dn, part, moments)

    (dx, dw), sums = chunks.each(run, (jnp.zeros_like(x), jnp.zeros_like(w)))
    return dx, dw, *sums.backward(gamma, moments)


transition.defvjp(_transition_forward, _transition_backward)
