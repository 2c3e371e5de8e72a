"""A dense block for GPUs and TPUs: the same function as `dense_block`, with few passes over memory.

There a step takes as long as its maps travel to memory and back. Of each layer

  - the moments of a map are taken in one pass;
  - the gradient by the channels that the layer adds is written once, summed over all later layers,
    instead of a growing map of gradients that each layer reads and writes;
  - the gradients of its first normalisation are made of two products that its 1x1 convolution needs
    for its kernel in any case, and need no pass over the channels that it reads (see
    `normalised_product`);
  - only the map and the products before the 3x3 convolutions are kept for the backward pass.

In bfloat16 a GPU runs the same by kernels of our own, see `gpu.dense_block`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxcovid.models.fused import normalised_product
from jaxcovid.models.fused.dense_block import LayerWeights
from jaxcovid.models.fused.execution import TILE_CHANNELS, TILE_PIXELS, Execution
from jaxcovid.models.fused.map_gradient import MapGradient, SavedLayer
from jaxcovid.models.fused.normalization import (
    NormSums,
    join_moments,
    moments_backward,
    one_pass_moments,
    pixel_count,
    share_gradient,
    sum_together,
)
from jaxcovid.models.layers import accumulation_dtype, convolve
from jaxcovid.models.normalization import (
    Moments,
    fold_norm,
    share_moments,
)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def train(
    x: jax.Array, layers: tuple[LayerWeights, ...], execution: Execution
) -> tuple[jax.Array, Moments, tuple[tuple[Moments, Moments], ...]]:
    """The block in training mode; see `dense_block.train`."""
    return _train_forward(x, layers, execution)[0]


def _train_forward(
    x: jax.Array, layers: tuple[LayerWeights, ...], execution: Execution
) -> tuple[Any, Any]:
    if not runs_by_kernels(x, layers, execution):
        return train_forward(x, layers, execution)
    from jaxcovid.models.fused.gpu import dense_block  # Pallas would make every start slower

    return jax.lax.platform_dependent(
        *(x, layers),
        cuda=partial(dense_block.train_forward, execution=execution),
        default=partial(train_forward, execution=execution),
    )


def _train_backward(
    execution: Execution, residuals: Any, cotangents: Any
) -> tuple[jax.Array, tuple[LayerWeights, ...]]:
    x, _, saved = residuals
    if not runs_by_kernels(x, [layer.weights for layer in saved], execution):
        return train_backward(execution, residuals, cotangents)
    from jaxcovid.models.fused.gpu import dense_block

    return jax.lax.platform_dependent(
        *(residuals, cotangents),
        cuda=partial(dense_block.train_backward, execution),
        default=partial(train_backward, execution),
    )


train.defvjp(_train_forward, _train_backward)


def runs_by_kernels(x: jax.Array, layers: Sequence[LayerWeights], execution: Execution) -> bool:
    """True if the block runs by kernels of our own in a program for a GPU; see `gpu`."""
    divides = x[..., 0].size % TILE_PIXELS == layers[0].gamma1.size % TILE_CHANNELS == 0
    usual = layers[0].w2.shape[2:] == (128, 32) and x.dtype == jnp.bfloat16
    return execution.platform == "gpu" and divides and usual


def train_forward(
    x: jax.Array, layers: tuple[LayerWeights, ...], execution: Execution
) -> tuple[Any, Any]:
    """What `train` gives, and what its backward pass needs: the map, its moments, the layers."""
    axis_name = execution.axis_name
    outer, moments, saved = share_moments(one_pass_moments(x), axis_name), [], []
    added = sum(layer.w2.shape[-1] for layer in layers)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, added)))
    for layer in layers:
        channels = layer.gamma1.size
        norm1 = fold_norm(layer.gamma1, layer.beta1, outer)
        product, inner = normalised_product.multiply(x, norm1, layer.w1[0, 0])
        inner = share_moments(inner, axis_name)
        norm2 = fold_norm(layer.gamma2, layer.beta2, inner)
        new = convolve(norm2.relu(product), layer.w2.astype(x.dtype))
        x = jax.lax.dynamic_update_slice(x, new, (0, 0, 0, channels))
        moments.append((outer, inner))
        saved.append(SavedLayer(layer, norm1, norm2, product, inner))
        outer = join_moments(outer, share_moments(one_pass_moments(new), axis_name))
    # Written once: XLA for a GPU would put the last channels in place again in each reader.
    x, outer = jax.lax.optimization_barrier((x, outer))
    return (x, outer, tuple(moments)), (x, outer, saved)


def train_backward(
    execution: Execution, residuals: Any, cotangents: Any
) -> tuple[jax.Array, tuple[LayerWeights, ...]]:
    """The gradients by the map and the parameters, from those by the results of `train`."""
    x, outer, saved = residuals
    dx, dmoments, _ = cotangents
    gradient = MapGradient(x, outer, dx, dmoments, execution)
    dlayers = []
    for layer in reversed(saved):
        weights = layer.weights
        channels, added = weights.gamma1.size, weights.w2.shape[-1]
        dnew = gradient(channels, channels + added)
        dproduct, dgamma2, dbeta2, dw2 = _conv2_backward(layer, dnew, execution)
        w1, read = weights.w1[0, 0], outer.channels(0, channels)
        dy, sums = normalised_product.multiply_backward(x, layer.norm1, outer.mean, w1, dproduct)
        dw1, dgamma1, dbeta1, dread = sums.backward(w1, weights.gamma1, weights.beta1, read)
        gradient.add(layer.norm1, dy, dread)
        dlayers.insert(0, LayerWeights(dgamma1, dbeta1, dw1[None, None], dgamma2, dbeta2, dw2))
    return gradient(0, saved[0].weights.gamma1.size), tuple(dlayers)


def _conv2_backward(
    layer: SavedLayer, dnew: jax.Array, execution: Execution
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """From the new channels back to the product: dproduct, dgamma2, dbeta2, dw2."""
    norm2, inner = layer.norm2, layer.inner
    w2 = layer.weights.w2.astype(dnew.dtype)
    product = layer.product
    (dy,) = jax.linear_transpose(lambda y: convolve(y, w2), product)(dnew)
    # Barriers keep the readers of two maps apart. XLA would else keep what the forward pass has
    # computed of one, and on a GPU write what the readers have in common.
    product, dy = jax.lax.optimization_barrier((product, dy))
    y = norm2.relu(product)
    (dw2,) = jax.linear_transpose(lambda w2: convolve(y, w2), w2)(dnew)

    def relu_backward(product: jax.Array, dy: jax.Array) -> jax.Array:
        dtype = accumulation_dtype(dy.dtype)
        return jnp.where(norm2(product) > 0, dy, 0).astype(dtype)

    dnormalised = relu_backward(product, dy)
    deviation = product - inner.mean.reshape(1, 1, 1, -1)
    sums = NormSums(*(s[None] for s in sum_together(dnormalised, dnormalised * deviation)))
    dgamma2, dbeta2, dinner = sums.backward(layer.weights.gamma2, inner)
    through_moments = moments_backward(
        inner,
        share_gradient(dinner, execution.axis_name),
        pixel_count(product, execution.axis_name),
    )
    if execution.platform == "gpu":
        product, dy = jax.lax.optimization_barrier((product, dy))
    dproduct = norm2.backward(relu_backward(product, dy)) + through_moments(product)
    dproduct = jax.lax.optimization_barrier(dproduct.astype(product.dtype))
    return dproduct, dgamma2, dbeta2, dw2.astype(accumulation_dtype(dw2.dtype))
