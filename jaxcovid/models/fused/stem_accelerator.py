"""The stem for GPUs and TPUs: the function of `downsampling.stem`, with few passes over its map.

The map between convolution and maximum is the largest of the network, and it is not kept: the
convolution of one gray channel is computed again. Nor is the gradient by the map made, unless that
by the image is asked for. Let dn be the gradient by the normalised map, and W(d) the gradient of
the kernel that belongs to a gradient d by the convolution. Then

  - dn is 0 where the maximum is not above 0, so its sum over pixels is one over the pooled map;
  - the sum of dn times the map, which is linear in the kernel, is that of the kernel times W(dn);
  - the gradient by the map is a dn + slope map + shift, so that dw is a W(dn) + slope W(map) +
    shift W(1), of which the forward pass takes the last two.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxcovid.models.fused.execution import Execution
from jaxcovid.models.fused.normalization import (
    NormSums,
    moments_backward,
    one_pass_moments,
    pixel_count,
    share_gradient,
)
from jaxcovid.models.fused.pooling import max_pool
from jaxcovid.models.layers import accumulation_dtype, convolve
from jaxcovid.models.normalization import Moments, fold_norm, share_moments


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def stem(
    image: jax.Array, w: jax.Array, gamma: jax.Array, beta: jax.Array, execution: Execution
) -> tuple[jax.Array, Moments]:
    """See `downsampling.stem`."""
    return _stem_forward(image, w, gamma, beta, execution)[0]


def _stem_forward(
    image: jax.Array, w: jax.Array, gamma: jax.Array, beta: jax.Array, execution: Execution
) -> tuple[Any, Any]:
    x = convolve(image, w.astype(image.dtype), stride=2)
    moments = share_moments(one_pass_moments(x), execution.axis_name)
    norm = fold_norm(gamma, beta, moments)
    out = max_pool(norm.relu(x), platform=execution.platform)
    of_map, of_ones = (_kernel_gradient(image, d, w) for d in (x, jnp.ones_like(x[..., :1])))
    # All that reads the map does so before anything reads `out`, so that it is not kept.
    out, of_map, of_ones = jax.lax.optimization_barrier((out, of_map, of_ones))
    return (out, moments), (image, w, gamma, moments, norm, out, of_map, of_ones)


def _kernel_gradient(image: jax.Array, d: jax.Array, w: jax.Array) -> jax.Array:
    """The gradient of the kernel, float32 [k, k, c, d], of a gradient d by the convolution."""
    kernel = jax.ShapeDtypeStruct((*w.shape[:3], d.shape[-1]), image.dtype)
    transpose = jax.linear_transpose(lambda kernel: convolve(image, kernel, stride=2), kernel)
    return transpose(d)[0].astype(accumulation_dtype(image.dtype))


def _stem_backward(execution: Execution, residuals: Any, cotangents: Any) -> Any:
    image, w, gamma, moments, norm, out, of_map, of_ones = residuals
    dout, _ = cotangents
    # Behind a barrier, or XLA would keep what the forward pass computed.
    image, dout = jax.lax.optimization_barrier((image, dout))
    dout = jnp.where(out > 0, dout, 0)
    x = convolve(image, w.astype(image.dtype), stride=2)
    pool = partial(max_pool, platform=execution.platform)
    (dn,) = jax.vjp(pool, norm.relu(x))[1](dout)

    of_dn = _kernel_gradient(image, dn, w)
    dy = dout.sum((0, 1, 2), dtype=accumulation_dtype(dout.dtype))
    dy_deviation = (w * of_dn).sum((0, 1, 2)) - moments.mean * dy
    dgamma, dbeta, dmoments = NormSums(dy[None], dy_deviation[None]).backward(gamma, moments)
    through_moments = moments_backward(
        moments,
        share_gradient(dmoments, execution.axis_name),
        pixel_count(x, execution.axis_name),
    )
    dw = norm.backward(of_dn) + through_moments.backward(of_map)
    dw += of_ones * through_moments.shift.reshape(1, 1, 1, -1)
    # Training does not use it, and XLA does not compute what is not used.
    dx = (norm.backward(dn) + through_moments(x)).astype(x.dtype)
    (dimage,) = jax.linear_transpose(
        lambda image: convolve(image, w.astype(x.dtype), stride=2), image
    )(dx)
    return dimage, dw, dgamma, dbeta


stem.defvjp(_stem_forward, _stem_backward)
