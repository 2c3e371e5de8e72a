"""A dense block for a GPU, of kernels of our own: the function of `dense_block_accelerator`.

A layer is two kernels forward and three backward, and small ones that join what their tiles give;
of each layer only the product of its 1x1 convolution goes to memory, and its gradient. Maps are
[rows, c] here, rows being the pixels of all images.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcovid.models.fused.dense_block import LayerWeights
from jaxcovid.models.fused.execution import Execution
from jaxcovid.models.fused.gpu import convolution, product, sums
from jaxcovid.models.fused.map_gradient import MapGradient, SavedLayer
from jaxcovid.models.fused.normalization import (
    NormSums,
    moments_backward,
    one_pass_moments,
    pixel_count,
    share_gradient,
)
from jaxcovid.models.normalization import (
    Affine,
    Moments,
    device_count,
    fold_norm,
    share_moments,
)


def _kernels(
    layers: tuple[LayerWeights, ...], dtype: Any
) -> list[tuple[product.Part, product.Part]]:
    """Kernels of each layer for the 1x1 and the 3x3 convolution.

    All are rounded together, which is one XLA kernel instead of one for each.
    """
    of_kind = []
    for name in ("w1", "w2"):
        ws = [getattr(layer, name) for layer in layers]
        rows = [w.reshape(-1, w.shape[-1]) for w in ws]
        array = jnp.concatenate(rows).astype(dtype)
        firsts = itertools.accumulate((len(r) for r in rows[:-1]), initial=0)
        of_kind.append([product.Part(array, first) for first in firsts])
    return list(zip(*of_kind, strict=True))


def train_forward(
    x: jax.Array,
    layers: tuple[LayerWeights, ...],
    execution: Execution,
    *,
    interpret: bool = False,
) -> tuple[Any, Any]:
    """See `dense_block_accelerator.train_forward`; `interpret` runs without a GPU, for tests."""
    b, h, w, _ = x.shape
    added = sum(layer.w2.shape[-1] for layer in layers)
    moments, saved = [], []
    outer = share_moments(one_pass_moments(x), execution.axis_name)
    outer = Moments(*(jnp.pad(moment, (0, added)) for moment in outer))
    # Each layer writes its channels before any other reads them: there is nothing to clear.
    room = jax.lax.empty((b * h * w, x.shape[-1] + added), x.dtype)
    x = jax.lax.dynamic_update_slice(room, x.reshape(b * h * w, -1), (0, 0))
    for layer, (w1, w2) in zip(layers, _kernels(layers, x.dtype), strict=True):
        channels = layer.gamma1.size
        read = outer.channels(0, channels)
        norm1 = fold_norm(layer.gamma1, layer.beta1, read)
        between, parts = product.normalised_product(x, norm1, w1, interpret=interpret)
        inner = share_moments(sums.join_moments(parts, interpret=interpret), execution.axis_name)
        norm2 = fold_norm(layer.gamma2, layer.beta2, inner)
        x, parts = convolution.add_channels(
            x, channels, between, norm2, w2, (h, w), interpret=interpret
        )
        outer = _with_moments_of(parts, channels, outer, execution, interpret)
        moments.append((read, inner))
        saved.append(SavedLayer(layer, norm1, norm2, between.reshape(b, h, w, -1), inner))
    x, outer = jax.lax.optimization_barrier((x.reshape(b, h, w, -1), outer))
    return (x, outer, tuple(moments)), (x, outer, saved)


def _with_moments_of(
    parts: Moments, start: int, outer: Moments, execution: Execution, interpret: bool
) -> Moments:
    """The moments of the growing map with those of new channels, by tiles [tiles, g]."""
    if device_count(execution.axis_name) == 1:
        return sums.join_moments(parts, outer, start, interpret=interpret)
    new = share_moments(sums.join_moments(parts, interpret=interpret), execution.axis_name)
    place = slice(start, start + new.mean.size)
    return Moments(*(old.at[place].set(part) for old, part in zip(outer, new, strict=True)))


def train_backward(
    execution: Execution, residuals: Any, cotangents: Any, *, interpret: bool = False
) -> tuple[jax.Array, tuple[LayerWeights, ...]]:
    """See `dense_block_accelerator.train_backward`; `interpret` runs without a GPU, for tests."""
    x, outer, saved = residuals
    dx, dmoments, _ = cotangents
    image, rows = x.shape[1:3], x.reshape(-1, x.shape[-1])
    gradient = MapGradient(x, outer, dx, dmoments, execution)
    layers = tuple(layer.weights for layer in saved)
    dlayers = []
    for layer, (w1, w2) in reversed(list(zip(saved, _kernels(layers, x.dtype), strict=True))):
        weights = layer.weights
        channels, (m, g) = weights.gamma1.size, weights.w2.shape[2:]
        between = layer.product.reshape(-1, m)
        dadded = gradient(channels, channels + g).reshape(-1, g)
        dw2 = convolution.kernel_gradient(
            between, layer.norm2, dadded, image, interpret=interpret
        ).sum(0)
        # Now, and not when nothing else is left to do: all maps would be kept until then.
        dw2, dadded = jax.lax.optimization_barrier((dw2, dadded))
        dnormalised, parts = convolution.map_gradient(
            dadded, between, layer.norm2, layer.inner.mean, w2, image, interpret=interpret
        )
        dgamma2, dbeta2, through_moments = _norm_gradients(parts, layer, execution, interpret)
        dbetween = product.ProductGradient(
            dnormalised, between, layer.norm2.multiplier, through_moments
        )
        dy, parts = product.product_backward(
            rows, layer.norm1, outer.mean, w1, dbetween, interpret=interpret
        )
        dw1, dgamma1, dbeta1, dread = sums.product_gradients(
            parts, weights.w1[0, 0], weights.gamma1, weights.beta1, outer, interpret=interpret
        )
        gradient.add(layer.norm1, dy.reshape(*x.shape[:-1], channels), dread)
        dw2 = dw2.reshape(weights.w2.shape)
        dlayers.insert(0, LayerWeights(dgamma1, dbeta1, dw1[None, None], dgamma2, dbeta2, dw2))
    return gradient(0, layers[0].gamma1.size), tuple(dlayers)


def _norm_gradients(
    parts: Sequence[jax.Array], layer: SavedLayer, execution: Execution, interpret: bool
) -> tuple[jax.Array, jax.Array, Affine]:
    """From the sums of `map_gradient`: dgamma2, dbeta2, and what goes through the moments."""
    gamma, inner = layer.weights.gamma2, layer.inner
    pixels = pixel_count(layer.product, execution.axis_name)
    if device_count(execution.axis_name) == 1:
        return sums.join_norm_sums(parts, gamma, inner, pixels, interpret=interpret)
    dgamma, dbeta, dinner = NormSums(*parts).backward(gamma, inner)
    dinner = share_gradient(dinner, execution.axis_name)
    return dgamma, dbeta, moments_backward(inner, dinner, pixels)
