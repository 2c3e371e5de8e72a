"""Kernels for a GPU: batch normalisation, ReLU and 1x1 convolution in one pass over a wide map.

XLA writes the normalised map to memory before it multiplies it, because a layer reads only the
first channels of a map, and reads the product once more for its moments. Both kernels, written in
Pallas for Triton, read each channel that a layer needs once. Rows are the pixels of all images.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.experimental.xla_metadata import set_xla_metadata

from jaxcovid.models.fused.execution import TILE_CHANNELS, TILE_PIXELS
from jaxcovid.models.normalization import Affine, Moments

_GROUP = 64  # channels of a program of `product_backward`
_GROUP_ROWS = 64  # of a tile of it
_PROGRAMS = 264  # of `product_backward`: two for each multiprocessor of an H100


def normalised_product(
    x: jax.Array, norm: Affine, w: jax.Array, *, interpret: bool = False
) -> tuple[jax.Array, Moments]:
    """relu(norm(x[:, :c])) w, and the moments of the product in each tile of rows.

    Args:
      x: [rows, c or more].
      norm: of the first c channels.
      w: float32 [c, width]; the product runs in the dtype of `x`.
      interpret: run without a GPU, for tests.

    Returns:
      The product [rows, width], dtype of `x`, and moments float32 [tiles, width].
    """
    rows, channels = x.shape
    c, width = w.shape
    tiles = rows // TILE_PIXELS
    moments = pl.BlockSpec((None, width), lambda i: (i, 0))
    multiply = pl.pallas_call(
        functools.partial(_product_kernel, steps=c // TILE_CHANNELS),
        grid=(tiles,),
        in_specs=[
            pl.BlockSpec((TILE_PIXELS, channels), lambda i: (i, 0)),
            _whole(c),
            _whole(c),
            _whole(c, width),
        ],
        out_specs=[pl.BlockSpec((TILE_PIXELS, width), lambda i: (i, 0)), moments, moments],
        out_shape=[
            jax.ShapeDtypeStruct((rows, width), x.dtype),
            jax.ShapeDtypeStruct((tiles, width), jnp.float32),
            jax.ShapeDtypeStruct((tiles, width), jnp.float32),
        ],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=3),
        interpret=interpret,
        name="normalised_product",
    )
    with set_xla_metadata(read_bytes=_read_bytes(x, c, norm, w)):
        product, mean, var = multiply(x, norm.multiplier, norm.shift, w)
    return product, Moments(mean, var)


def _product_kernel(
    x: Any, multiplier: Any, shift: Any, w: Any, product: Any, mean: Any, var: Any, *, steps: int
) -> None:
    """A tile of `normalised_product`."""

    def add(step: jax.Array, total: jax.Array) -> jax.Array:
        part = pl.ds(step * TILE_CHANNELS, TILE_CHANNELS)
        y = jnp.maximum(x[:, part] * multiplier[part][None] + shift[part][None], 0)
        return total + pl.dot(y.astype(x.dtype), w[part, :].astype(x.dtype))

    total = jax.lax.fori_loop(0, steps, add, jnp.zeros(product.shape, jnp.float32))
    rounded = total.astype(product.dtype)
    product[...] = rounded
    # Of what is stored, as all others see it.
    stored = rounded.astype(jnp.float32)
    own_mean = stored.sum(0) / TILE_PIXELS
    mean[...] = own_mean
    var[...] = jnp.square(stored - own_mean[None]).sum(0) / TILE_PIXELS


def product_backward(
    x: jax.Array,
    norm: Affine,
    mean: jax.Array,
    w: jax.Array,
    dproduct: jax.Array,
    *,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Backward pass of the product of `normalised_product`, but for the normalisation.

    Args:
      x: [rows, c or more].
      norm: of the first c channels.
      mean: of the channels, float32 [c or more].
      w: float32 [c, width]; the product runs in the dtype of `x`.
      dproduct: [rows, width], dtype of `x`.
      interpret: run without a GPU, for tests.

    Returns:
      The gradient by the normalised map, [rows, c], dtype of `x`; and `positive` and `deviations`
      of `normalised_product.ProductSums`, float32 [2, c, width].
    """
    rows, channels = x.shape
    c, width = w.shape
    groups = -(-c // _GROUP)
    # A power of two that divides the rows into tiles.
    splits = math.gcd(rows // _GROUP_ROWS, 1 << max(0, (_PROGRAMS // groups).bit_length() - 1))
    multiply = pl.pallas_call(
        functools.partial(_backward_kernel, rows=rows // splits),
        # Programs that read the same rows follow each other, so that they meet them in the cache.
        grid=(groups, splits),
        in_specs=[
            _whole(rows, channels),
            _whole(c),
            _whole(c),
            _whole(mean.size),
            _whole(c, width),
            _whole(rows, width),
        ],
        out_specs=[_whole(rows, c), _whole(splits, 2, c, width)],
        out_shape=[
            jax.ShapeDtypeStruct((rows, c), x.dtype),
            jax.ShapeDtypeStruct((splits, 2, c, width), jnp.float32),
        ],
        compiler_params=triton.CompilerParams(num_warps=8, num_stages=2),
        interpret=interpret,
        name="product_backward",
    )
    with set_xla_metadata(read_bytes=_read_bytes(x, c, norm, mean, w, dproduct)):
        dy, sums = multiply(x, norm.multiplier, norm.shift, mean, w, dproduct)
    return dy, sums.sum(0)


def _backward_kernel(
    x: Any,
    multiplier: Any,
    shift: Any,
    mean: Any,
    w: Any,
    dproduct: Any,
    dy: Any,
    sums: Any,
    *,
    rows: int,
) -> None:
    """Some rows of a group of channels of `product_backward`."""
    group, split = pl.program_id(0), pl.program_id(1)
    c, width = w.shape
    channels = group * _GROUP + jnp.arange(_GROUP)
    inside = channels < c
    outputs = jnp.arange(width)

    def of_channels(ref: Any) -> jax.Array:
        return triton.load(ref.at[channels], mask=inside, other=0)[None]

    a, b, centre = of_channels(multiplier), of_channels(shift), of_channels(mean)
    kernel = (channels[:, None], outputs[None])
    weights = triton.load(w.at[kernel], mask=inside[:, None], other=0).astype(x.dtype)

    def add(step: jax.Array, totals: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        positive, deviations = totals
        place = split * rows + step * _GROUP_ROWS + jnp.arange(_GROUP_ROWS)
        pixels = (place[:, None], channels[None])
        part = triton.load(x.at[pixels], mask=inside[None], other=0)
        gradient = triton.load(dproduct.at[place[:, None], outputs[None]])
        part_dy = pl.dot(gradient, weights, trans_b=True)
        triton.store(dy.at[pixels], part_dy.astype(dy.dtype), mask=inside[None])
        on = part * a + b > 0
        deviation = jnp.where(on, part - centre, 0).astype(x.dtype)
        return (
            positive + pl.dot(on.astype(x.dtype), gradient, trans_a=True),
            deviations + pl.dot(deviation, gradient, trans_a=True),
        )

    zero = jnp.zeros((_GROUP, width), jnp.float32)
    totals = jax.lax.fori_loop(0, rows // _GROUP_ROWS, add, (zero, zero))
    for index, total in enumerate(totals):
        triton.store(sums.at[(split, index, *kernel)], total, mask=inside[:, None])


def _read_bytes(x: jax.Array, channels: int, *others: Any) -> int:
    """Bytes of the first channels of a map and of other arrays, for `benchmark compile`."""
    return x.nbytes // x.shape[1] * channels + sum(a.nbytes for a in jax.tree.leaves(others))


def _whole(*shape: int) -> pl.BlockSpec:
    """An array that every program sees as a whole."""
    return pl.BlockSpec(shape, lambda *_: (0,) * len(shape))
