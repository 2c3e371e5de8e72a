"""A dense block as one function with its own backward pass, at about the cost of its products.

Written layer by layer, a dense block copies its growing map in each layer, keeps a normalised copy
of it for the backward pass of each layer, and streams all of them through memory a dozen times; on
a CPU that takes as long as the products. Here

  - the map is one buffer, and every layer writes its new channels into it;
  - only that buffer and the product of each layer before its 3x3 convolution are kept; normalise +
    ReLU is computed again when a gradient needs it, so memory grows linearly with depth;
  - the moments of a channel are computed once and shared by all later layers, and their gradient is
    summed per channel and spread over the map once;
  - a CPU takes the batch a few images at a time, so that what one operation writes is still in the
    cache when the next one reads it.

The function is `densenet.DenseBlock`. GPUs and TPUs train with `dense_block_accelerator`; `infer`
serves all.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcovid.models.fused.chunks import Chunks
from jaxcovid.models.fused.convolution import convolve_backward
from jaxcovid.models.fused.execution import Execution
from jaxcovid.models.fused.normalization import (
    NormSums,
    join_moments,
    moments_backward,
    pixel_count,
    pool_moments,
    share_gradient,
)
from jaxcovid.models.layers import convolve
from jaxcovid.models.normalization import Affine, Moments, batch_moments, fold_norm, share_moments


class LayerWeights(NamedTuple):
    """Parameters, float32, of a layer that reads c channels and adds g by way of m.

    Attributes:
      gamma1: scale of the first batch normalisation, [c].
      beta1: shift of the first batch normalisation, [c].
      w1: kernel of the 1x1 convolution, [1, 1, c, m].
      gamma2: scale of the second batch normalisation, [m].
      beta2: shift of the second batch normalisation, [m].
      w2: kernel of the 3x3 convolution, [3, 3, m, g].
    """

    gamma1: jax.Array
    beta1: jax.Array
    w1: jax.Array
    gamma2: jax.Array
    beta2: jax.Array
    w2: jax.Array


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def train(
    x: jax.Array, layers: Sequence[LayerWeights], execution: Execution
) -> tuple[jax.Array, Moments, tuple[tuple[Moments, Moments], ...]]:
    """The block in training mode: every channel is normalised with its moments in the batch.

    Args:
      x: [b, h, w, c], any floating dtype; products run in it.
      layers: parameters, those of the first layer for c channels.
      execution: how it runs.

    Returns:
      The map [b, h, w, c + added], the moments of all its channels, and those for both
      normalisations of every layer, which carry no gradient.
    """
    return _train_forward(x, layers, execution)[0]


def infer(
    x: jax.Array,
    layers: Sequence[LayerWeights],
    moments: Sequence[tuple[Moments, Moments]],
    execution: Execution,
) -> jax.Array:
    """The block in inference mode, with given moments of both normalisations of every layer.

    The second normalisation is folded into the 1x1 convolution before it, and a few images pass
    through all layers before the next ones do.
    """
    x = _add_room(x, layers)
    chunks = Chunks(x, execution)

    def run_layers(index: Any, whole: jax.Array) -> tuple[jax.Array, None]:
        part = chunks.read(whole, index)
        for layer, (outer, inner) in zip(layers, moments, strict=True):
            channels = layer.gamma1.size
            multiplier, shift = fold_norm(layer.gamma2, layer.beta2, inner)
            y = fold_norm(layer.gamma1, layer.beta1, outer).relu(part[..., :channels])
            y = convolve(y, (layer.w1 * multiplier.reshape(1, 1, 1, -1)).astype(x.dtype))
            y = jnp.maximum(y + shift.reshape(1, 1, 1, -1), 0).astype(x.dtype)
            new = convolve(y, layer.w2.astype(x.dtype))
            part = jax.lax.dynamic_update_slice(part, new, (0, 0, 0, channels))
        return chunks.write(whole, part, index), None

    return chunks.each(run_layers, x)[0]


def _add_room(x: jax.Array, layers: Sequence[LayerWeights]) -> jax.Array:
    """`x` [b, h, w, c] with room for the channels that the layers will add."""
    added = sum(layer.w2.shape[-1] for layer in layers)
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, added)))


def _conv1_forward(
    x: jax.Array, layer: LayerWeights, outer: Moments, execution: Execution
) -> tuple[jax.Array, Moments]:
    """First half of a layer: its product [b, h, w, m] before the 3x3, and the moments of that."""
    chunks = Chunks(x, execution)
    channels, width = layer.w1.shape[2:]
    norm1 = fold_norm(layer.gamma1, layer.beta1, outer)

    def run(index: Any, product: jax.Array) -> tuple[jax.Array, Moments]:
        part = norm1.relu(chunks.read(x, index, 0, channels))
        part = convolve(part, layer.w1.astype(x.dtype))
        return chunks.write(product, part, index), batch_moments(part)

    product, moments = chunks.each(run, jnp.zeros((*x.shape[:3], width), x.dtype))
    return product, pool_moments(moments)


def _conv2_forward(
    x: jax.Array, product: jax.Array, layer: LayerWeights, inner: Moments, execution: Execution
) -> tuple[jax.Array, Moments]:
    """Second half of a layer: the map with its new channels, and the moments of those."""
    chunks = Chunks(x, execution)
    norm2 = fold_norm(layer.gamma2, layer.beta2, inner)

    def run(index: Any, x: jax.Array) -> tuple[jax.Array, Moments]:
        part = norm2.relu(chunks.read(product, index))
        part = convolve(part, layer.w2.astype(x.dtype))
        return chunks.write(x, part, index, layer.gamma1.size), batch_moments(part)

    x, moments = chunks.each(run, x)
    return x, pool_moments(moments)


class _SavedLayer(NamedTuple):
    """What the backward pass of a layer needs: parameters, product and moments of the product."""

    weights: LayerWeights
    product: jax.Array
    inner: Moments


def _train_forward(
    x: jax.Array, layers: Sequence[LayerWeights], execution: Execution
) -> tuple[Any, Any]:
    axis_name = execution.axis_name
    outer, moments, saved = batch_moments(x, axis_name), [], []
    x = _add_room(x, layers)
    for layer in layers:
        product, inner = _conv1_forward(x, layer, outer, execution)
        inner = share_moments(inner, axis_name)
        x, new = _conv2_forward(x, product, layer, inner, execution)
        moments.append((outer, inner))
        saved.append(_SavedLayer(layer, product, inner))
        outer = join_moments(outer, share_moments(new, axis_name))
    return (x, outer, tuple(moments)), (layers, x, outer, saved)


class _Gradients(NamedTuple):
    """What the backward pass of a layer hands to that of the layer before it.

    Attributes:
      dx: gradient by the map of the block, [b, h, w, c + added], without what the moments of the
        map pass on, and without what the earlier layers add.
      dmoments: gradient by the moments of the map up to the new channels of the layer, likewise;
        only what the rows of this device add.
      scratch: a map as large as a product, which every layer overwrites.
    """

    dx: jax.Array
    dmoments: Moments
    scratch: jax.Array


def _train_backward(
    execution: Execution, residuals: Any, cotangents: Any
) -> tuple[jax.Array, Sequence[LayerWeights]]:
    layers, x, outer, saved = residuals
    dx, dmoments, _ = cotangents
    gradients = _Gradients(dx, dmoments, jnp.zeros_like(saved[0].product))
    dlayers = []
    for layer in reversed(saved):
        gradients, dlayer = _LayerBackward(x, outer, layer, execution).run(gradients)
        dlayers.insert(0, dlayer)
    channels = layers[0].gamma1.size
    through_moments = moments_backward(
        outer.channels(0, channels),
        share_gradient(gradients.dmoments, execution.axis_name),
        pixel_count(x, execution.axis_name),
    )
    dx = gradients.dx[..., :channels] + through_moments(x[..., :channels])
    return dx.astype(x.dtype), type(layers)(dlayers)


train.defvjp(_train_forward, _train_backward)


class _LayerBackward:
    """The backward pass of a layer."""

    def __init__(
        self, x: jax.Array, outer: Moments, layer: _SavedLayer, execution: Execution
    ) -> None:
        """Takes the map of the block, its moments and what the forward pass of the layer saved."""
        self.x, self.layer, self.execution = x, layer, execution
        self.chunks = Chunks(x, execution)
        weights = layer.weights
        self.channels, added = weights.gamma1.size, weights.w2.shape[-1]
        self.new = (self.channels, self.channels + added)
        self.outer, self.read_moments = outer, outer.channels(0, self.channels)
        self.norm1 = fold_norm(weights.gamma1, weights.beta1, self.read_moments)
        self.norm2 = fold_norm(weights.gamma2, weights.beta2, layer.inner)

    def run(self, gradients: _Gradients) -> tuple[_Gradients, LayerWeights]:
        """The gradients for the layer before, and those by the parameters."""
        weights, inner = self.layer.weights, self.layer.inner
        scratch, sums, dw2 = self._conv2(
            gradients,
            self._through(self.outer.channels(*self.new), gradients.dmoments.channels(*self.new)),
        )
        dgamma2, dbeta2, dinner = sums.backward(weights.gamma2, inner)
        dx, sums, dw1 = self._conv1(gradients.dx, scratch, self._through(inner, dinner))
        dgamma1, dbeta1, dread = sums.backward(weights.gamma1, self.read_moments)
        dmoments = Moments(
            *(v[: self.channels] + more for v, more in zip(gradients.dmoments, dread, strict=True))
        )
        dweights = LayerWeights(dgamma1, dbeta1, dw1, dgamma2, dbeta2, dw2)
        return _Gradients(dx, dmoments, scratch), dweights

    def _through(self, moments: Moments, dmoments: Moments) -> Affine:
        """The gradient that a map with these moments gets through them."""
        axis_name = self.execution.axis_name
        shared = share_gradient(dmoments, axis_name)
        return moments_backward(moments, shared, pixel_count(self.x, axis_name))

    def _conv2(
        self, gradients: _Gradients, through_moments: Affine
    ) -> tuple[jax.Array, NormSums, jax.Array]:
        """From the new channels back to the product.

        Returns:
          The gradient by the product after normalisation, written into `gradients.scratch`, the
          sums of that normalisation, and dw2.
        """
        x, w2, chunks = self.x, self.layer.weights.w2, self.chunks

        def run(index: Any, carry: Any) -> tuple[Any, NormSums]:
            scratch, dw2 = carry
            dnew = chunks.read(gradients.dx, index, *self.new)
            dnew = dnew + through_moments(chunks.read(x, index, *self.new))
            product = chunks.read(self.layer.product, index)
            y = self.norm2.relu(product)
            dy, more = convolve_backward(y, w2.astype(x.dtype), dnew.astype(x.dtype))
            dn = jnp.where(y > 0, dy, 0)
            carry = chunks.write(scratch, dn, index), dw2 + more
            return carry, NormSums.over_pixels(dn, product, self.layer.inner)

        (scratch, dw2), sums = chunks.each(run, (gradients.scratch, jnp.zeros_like(w2)))
        return scratch, sums, dw2

    def _conv1(
        self, dx: jax.Array, scratch: jax.Array, through_inner: Affine
    ) -> tuple[jax.Array, NormSums, jax.Array]:
        """From the product back to the channels that the layer read.

        Returns:
          `dx` with what these channels get, the sums of their normalisation, and dw1.
        """
        x, w1, chunks = self.x, self.layer.weights.w1, self.chunks

        def run(index: Any, carry: Any) -> tuple[Any, NormSums]:
            dx, dw1 = carry
            dproduct = self.norm2.backward(chunks.read(scratch, index))
            dproduct += through_inner(chunks.read(self.layer.product, index))
            part = chunks.read(x, index, 0, self.channels)
            y = self.norm1.relu(part)
            dy, more = convolve_backward(y, w1.astype(x.dtype), dproduct.astype(x.dtype))
            dn = jnp.where(y > 0, dy, 0)
            dpart = chunks.read(dx, index, 0, self.channels) + self.norm1.backward(dn)
            carry = chunks.write(dx, dpart.astype(x.dtype), index), dw1 + more
            return carry, NormSums.over_pixels(dn, part, self.read_moments)

        (dx, dw1), sums = chunks.each(run, (dx, jnp.zeros_like(w1)))
        return dx, sums, dw1
