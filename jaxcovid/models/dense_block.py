"""A dense block as one function with its own backward pass, near what its arithmetic costs.

Written layer by layer, a dense block copies its growing map once a layer, keeps a normalised copy
of it for each layer's backward pass, and streams all of them through memory a dozen times; on a
CPU that takes as long as the products. Here

  - the map is one buffer, and every layer writes its new channels into it;
  - only that buffer and each layer's product before its 3x3 convolution are kept; normalise + ReLU
    is computed again when a gradient needs it, so memory grows linearly with depth;
  - the batch moments of a channel are computed once and shared by all later layers, and their
    gradient is summed per channel and spread over the map once;
  - a CPU goes through the batch a few images at a time, so that what one operation writes still
    lies in the cache when the next one reads it.

The function is that of the usual dense block (Huang et al., arXiv:1608.06993).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcovid.models.chunks import Chunks
from jaxcovid.models.layers import convolve, gradients
from jaxcovid.models.normalization import (
    Moments,
    NormalisedSums,
    batch_moments,
    join_moments,
    moments_gradient,
    normalisation,
    pixel_count,
    pool_moments,
    share_gradient,
    share_moments,
)


class LayerWeights(NamedTuple):
    """Parameters, float32, of a layer that reads c channels and adds g by way of m.

    Attributes:
      scale1: of the first batch normalisation, [c].
      bias1: likewise.
      kernel1: of the 1x1 convolution, [1, 1, c, m].
      scale2: of the second batch normalisation, [m].
      bias2: likewise.
      kernel2: of the 3x3 convolution, [3, 3, m, g].
    """

    scale1: jax.Array
    bias1: jax.Array
    kernel1: jax.Array
    scale2: jax.Array
    bias2: jax.Array
    kernel2: jax.Array


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def train(
    x: jax.Array, layers: Sequence[LayerWeights], axis_name: str | None = None
) -> tuple[jax.Array, Moments, tuple[Moments, ...]]:
    """The block in training mode: every channel is normalised with its moments in the batch.

    Args:
      x: [b, h, w, c], any floating dtype; products run in it.
      layers: parameters, the first one reading c channels.
      axis_name: see `normalization`.

    Returns:
      The map [b, h, w, c + added], the moments of all its channels, and those of each layer's
      product, which carry no gradient.
    """
    return _train_forward(x, layers, axis_name)[0]


def infer(
    x: jax.Array, layers: Sequence[LayerWeights], moments: Sequence[tuple[Moments, Moments]]
) -> jax.Array:
    """The block in inference mode, with given moments of both normalisations of every layer.

    The second normalisation is folded into the 1x1 convolution before it, and a few images go
    through all layers before the next ones do.
    """
    x = _with_room(x, layers)
    chunks = Chunks(x)

    def of_chunk(index: Any, whole: jax.Array) -> tuple[jax.Array, None]:
        part = chunks.read(whole, index)
        for layer, (outer, inner) in zip(layers, moments, strict=True):
            channels = layer.scale1.size
            multiplier, shift = normalisation(layer.scale2, layer.bias2, inner)
            y = normalisation(layer.scale1, layer.bias1, outer).relu(part[..., :channels])
            y = convolve(y, (layer.kernel1 * multiplier.reshape(1, 1, 1, -1)).astype(x.dtype))
            y = jnp.maximum(y + shift.reshape(1, 1, 1, -1), 0).astype(x.dtype)
            new = convolve(y, layer.kernel2.astype(x.dtype))
            part = jax.lax.dynamic_update_slice(part, new, (0, 0, 0, channels))
        return chunks.write(whole, part, index), None

    return chunks.each(of_chunk, x)[0]


def _with_room(x: jax.Array, layers: Sequence[LayerWeights]) -> jax.Array:
    """`x` [b, h, w, c] with room for the channels that the layers will add."""
    added = sum(layer.kernel2.shape[-1] for layer in layers)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, added)))


def _reduce(x: jax.Array, layer: LayerWeights, outer: Moments) -> tuple[jax.Array, Moments]:
    """First half of a layer: the channels so far -> its product before the 3x3, with moments."""
    chunks = Chunks(x)
    channels, width = layer.kernel1.shape[2:]
    normalise = normalisation(layer.scale1, layer.bias1, outer)

    def of_chunk(index: Any, product: jax.Array) -> tuple[jax.Array, Moments]:
        part = normalise.relu(chunks.read(x, index, 0, channels))
        part = convolve(part, layer.kernel1.astype(x.dtype))
        return chunks.write(product, part, index), batch_moments(part)

    product, moments = chunks.each(of_chunk, jnp.zeros((*x.shape[:3], width), x.dtype))
    return product, pool_moments(moments)


def _extend(
    x: jax.Array, product: jax.Array, layer: LayerWeights, inner: Moments
) -> tuple[jax.Array, Moments]:
    """Second half of a layer: the map with its new channels, and their moments."""
    chunks = Chunks(x)
    normalise = normalisation(layer.scale2, layer.bias2, inner)

    def of_chunk(index: Any, x: jax.Array) -> tuple[jax.Array, Moments]:
        part = normalise.relu(chunks.read(product, index))
        part = convolve(part, layer.kernel2.astype(x.dtype))
        return chunks.write(x, part, index, layer.scale1.size), batch_moments(part)

    x, moments = chunks.each(of_chunk, x)
    return x, pool_moments(moments)


def _train_forward(
    x: jax.Array, layers: Sequence[LayerWeights], axis_name: str | None
) -> tuple[Any, Any]:
    outer, inner, products = batch_moments(x, axis_name), [], []
    x = _with_room(x, layers)
    for layer in layers:
        product, moments = _reduce(x, layer, outer)
        moments = share_moments(moments, axis_name)
        x, new = _extend(x, product, layer, moments)
        outer = join_moments(outer, share_moments(new, axis_name))
        inner.append(moments)
        products.append(product)
    return (x, outer, tuple(inner)), (layers, x, outer, inner, products)


def _train_backward(
    axis_name: str | None, saved: Any, cotangents: Any
) -> tuple[jax.Array, Sequence[LayerWeights]]:
    layers, x, outer, inner, products = saved
    gradient, outer_gradient, _ = cotangents
    scratch = jnp.zeros_like(products[0])
    by_layers = []
    for i in reversed(range(len(layers))):
        gradient, outer_gradient, scratch, by_layer = _layer_backward(
            gradient, outer_gradient, scratch, x, products[i], layers[i], outer, inner[i], axis_name
        )
        by_layers.insert(0, by_layer)
    channels = layers[0].scale1.size
    by_moments = moments_gradient(
        outer.of(0, channels), share_gradient(outer_gradient, axis_name), pixel_count(x, axis_name)
    )
    dx = gradient[..., :channels] + by_moments.of(x[..., :channels])
    return dx.astype(x.dtype), type(layers)(by_layers)


train.defvjp(_train_forward, _train_backward)


def _layer_backward(
    gradient: jax.Array,
    outer_gradient: Moments,
    scratch: jax.Array,
    x: jax.Array,
    product: jax.Array,
    layer: LayerWeights,
    outer: Moments,
    inner: Moments,
    axis_name: str | None,
) -> tuple[jax.Array, Moments, jax.Array, LayerWeights]:
    """A layer backwards.

    Args:
      gradient: of the loss by the block's map, without what goes through the moments of the map,
        and without what the earlier layers add.
      outer_gradient: of the loss by the moments of the map up to the layer's new channels,
        likewise; what this device adds.
      scratch: room for a map as large as `product`, used again from layer to layer.
      x: the block's map.
      product: what the layer's 1x1 convolution gave.
      layer: its parameters.
      outer: moments of the map.
      inner: moments of the product.
      axis_name: see `normalization`.

    Returns:
      The first three arguments of the layer before, and the gradient by the parameters.
    """
    chunks = Chunks(x)
    channels, added = layer.scale1.size, layer.kernel2.shape[-1]
    new = (channels, channels + added)
    read = outer.of(0, channels)
    first = normalisation(layer.scale1, layer.bias1, read)
    second = normalisation(layer.scale2, layer.bias2, inner)
    pixels = pixel_count(x, axis_name)
    by_moments = moments_gradient(
        outer.of(*new), share_gradient(outer_gradient.of(*new), axis_name), pixels
    )

    def extend(index: Any, done: Any) -> tuple[Any, NormalisedSums]:
        """To the product after its normalisation (into scratch), and to the 3x3 kernel."""
        scratch, by_kernel = done
        g = chunks.read(gradient, index, *new) + by_moments.of(chunks.read(x, index, *new))
        z = chunks.read(product, index)
        y = second.relu(z)
        by_y, more = gradients(y, layer.kernel2.astype(x.dtype), g.astype(x.dtype))
        dn = jnp.where(y > 0, by_y, 0)
        done = chunks.write(scratch, dn, index), by_kernel + more
        return done, NormalisedSums.of(dn, z, inner)

    (scratch, kernel2), sums = chunks.each(extend, (scratch, jnp.zeros_like(layer.kernel2)))
    scale2, bias2, inner_gradient = sums.gradients(layer.scale2, inner)
    by_inner = moments_gradient(inner, share_gradient(inner_gradient, axis_name), pixels)

    def reduce(index: Any, done: Any) -> tuple[Any, NormalisedSums]:
        """To the channels that the layer read, and to the 1x1 kernel."""
        gradient, by_kernel = done
        dz = second.gradient(chunks.read(scratch, index))
        dz += by_inner.of(chunks.read(product, index))
        part = chunks.read(x, index, 0, channels)
        y = first.relu(part)
        by_y, more = gradients(y, layer.kernel1.astype(x.dtype), dz.astype(x.dtype))
        dn = jnp.where(y > 0, by_y, 0)
        dx = chunks.read(gradient, index, 0, channels) + first.gradient(dn)
        gradient = chunks.write(gradient, dx.astype(x.dtype), index)
        return (gradient, by_kernel + more), NormalisedSums.of(dn, part, read)

    (gradient, kernel1), sums = chunks.each(reduce, (gradient, jnp.zeros_like(layer.kernel1)))
    scale1, bias1, read_gradient = sums.gradients(layer.scale1, read)
    outer_gradient = Moments(
        *(v[:channels] + more for v, more in zip(outer_gradient, read_gradient, strict=True))
    )
    by_layer = LayerWeights(scale1, bias1, kernel1, scale2, bias2, kernel2)
    return gradient, outer_gradient, scratch, by_layer
