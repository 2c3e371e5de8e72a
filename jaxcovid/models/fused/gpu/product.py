"""Kernels for a GPU: batch normalisation, ReLU and 1x1 convolution in one pass over a wide map.

A layer reads the first channels of the growing map of its block. XLA would write them normalised to
memory before it multiplies them. Rows are the pixels of all images.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxcovid.models.fused.execution import TILE_CHANNELS, TILE_PIXELS
from jaxcovid.models.fused.gpu.launch import bytes_of, in_tiles, launch, whole
from jaxcovid.models.normalization import Affine, Moments

_GROUP = 64  # channels of a program of `product_backward`
_GROUP_ROWS = 64  # of a tile of it
_PROGRAMS = 264  # of `product_backward`: two for each multiprocessor of an H100


class Part(NamedTuple):
    """Some rows of an array [n, m]: the kernel of a layer among those of its block.

    Attributes:
      array: of all layers.
      first: row; divides by `TILE_CHANNELS`.
    """

    array: jax.Array
    first: int


@functools.partial(jax.jit, static_argnames=("interpret",))
def normalised_product(
    x: jax.Array, norm: Affine, w: Part, *, interpret: bool = False
) -> tuple[jax.Array, Moments]:
    """relu(norm(x[:, :c])) w, and the moments of the product in each tile of rows.

    Args:
      x: [rows, c or more].
      norm: of the first c channels.
      w: [c, width], dtype of `x`.
      interpret: run without a GPU, for tests.

    Returns:
      The product [rows, width], dtype of `x`, and moments float32 [tiles, width].
    """
    rows, channels = x.shape
    c, width = norm.shift.size, w.array.shape[1]
    tiles = rows // TILE_PIXELS
    moments = pl.BlockSpec((None, width), lambda i: (i, 0))
    results = [
        jax.ShapeDtypeStruct((rows, width), x.dtype),
        jax.ShapeDtypeStruct((tiles, width), jnp.float32),
        jax.ShapeDtypeStruct((tiles, width), jnp.float32),
    ]
    product, mean, var = launch(
        _product_kernel,
        *(x, *norm, w.array, in_tiles(c, w.first)),
        grid=(tiles,),
        in_specs=[
            pl.BlockSpec((TILE_PIXELS, channels), lambda i: (i, 0)),
            whole(c),
            whole(c),
            whole(*w.array.shape),
            whole(2),
        ],
        out_specs=[pl.BlockSpec((TILE_PIXELS, width), lambda i: (i, 0)), moments, moments],
        out_shape=results,
        traffic=(_bytes_read(x, c, w, norm), bytes_of(results)),
        interpret=interpret,
        name="normalised_product",
    )
    return product, Moments(mean, var)


def _product_kernel(
    x: Any, multiplier: Any, shift: Any, w: Any, tiles: Any, product: Any, mean: Any, var: Any
) -> None:
    """A tile of `normalised_product`."""
    steps, first = tiles[0], tiles[1] * TILE_CHANNELS

    def add(step: jax.Array, total: jax.Array) -> jax.Array:
        part = pl.ds(step * TILE_CHANNELS, TILE_CHANNELS)
        y = jnp.maximum(x[:, part] * multiplier[part][None] + shift[part][None], 0)
        kernel = w[pl.ds(first + step * TILE_CHANNELS, TILE_CHANNELS), :]
        return total + pl.dot(y.astype(x.dtype), kernel)

    total = jax.lax.fori_loop(0, steps, add, jnp.zeros(product.shape, jnp.float32))
    rounded = total.astype(product.dtype)
    product[...] = rounded
    store_moments(rounded, mean, var)


def store_moments(tile: jax.Array, mean: Any, var: Any) -> None:
    """Stores the moments over the rows of a tile [rows, c]: of what is stored, as others see it."""
    tile = tile.astype(jnp.float32)
    own_mean = tile.sum(0) / tile.shape[0]
    mean[...] = own_mean
    var[...] = jnp.square(tile - own_mean[None]).sum(0) / tile.shape[0]


class ProductGradient(NamedTuple):
    """The gradient by a product, multiplier dnormalised + slope product + shift, not yet computed.

    Attributes:
      dnormalised: gradient by the product after normalisation, [rows, width].
      product: [rows, width].
      multiplier: of the normalisation, float32 [width].
      through_moments: of the product, the gradient that goes through its moments.
    """

    dnormalised: jax.Array
    product: jax.Array
    multiplier: jax.Array
    through_moments: Affine


@functools.partial(jax.jit, static_argnames=("interpret",))
def product_backward(
    x: jax.Array,
    norm: Affine,
    mean: jax.Array,
    w: Part,
    dproduct: ProductGradient,
    *,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Backward pass of the product of `normalised_product`, but for the normalisation.

    Args:
      x: [rows, c or more].
      norm: of the first c channels.
      mean: of the channels, float32 [c or more].
      w: [c, width], dtype of `x`.
      dproduct: gradient by the product [rows, width].
      interpret: run without a GPU, for tests.

    Returns:
      The gradient by the map after ReLU, [rows, c], dtype of `x`; and `positive` and `deviations`
      of `normalised_product.ProductSums`, of some rows each, float32 [splits, 2, c, width].
    """
    rows, channels = x.shape
    c, width = norm.shift.size, w.array.shape[1]
    groups = -(-c // _GROUP)
    # A power of two that divides the rows into tiles.
    splits = math.gcd(rows // _GROUP_ROWS, 1 << max(0, (_PROGRAMS // groups).bit_length() - 1))
    results = [
        jax.ShapeDtypeStruct((rows, c), x.dtype),
        jax.ShapeDtypeStruct((splits, 2, c, width), jnp.float32),
    ]
    return launch(
        functools.partial(_backward_kernel, rows=rows // splits),
        *(x, *norm, mean, w.array, in_tiles(w.first), *jax.tree.leaves(dproduct)),
        # Programs that read the same rows follow each other, so that they meet them in the cache.
        grid=(groups, splits),
        in_specs=[
            whole(rows, channels),
            whole(c),
            whole(c),
            whole(mean.size),
            whole(*w.array.shape),
            whole(1),
            whole(rows, width),
            whole(rows, width),
            whole(width),
            whole(width),
            whole(width),
        ],
        out_specs=[whole(rows, c), whole(splits, 2, c, width)],
        out_shape=results,
        traffic=(_bytes_read(x, c, w, norm, mean, dproduct), bytes_of(results)),
        warps=8,
        stages=2,
        interpret=interpret,
        name="product_backward",
    )


def _backward_kernel(
    x: Any,
    multiplier: Any,
    shift: Any,
    mean: Any,
    w: Any,
    first: Any,
    *refs: Any,
    rows: int,
) -> None:
    """Some rows of a group of channels of `product_backward`."""
    *dproduct, dy, sums = refs
    group, split = pl.program_id(0), pl.program_id(1)
    c, width = shift.size, w.shape[1]
    channels = group * _GROUP + jnp.arange(_GROUP)
    inside = channels < c
    outputs = jnp.arange(width)

    def of_channels(ref: Any) -> jax.Array:
        return triton.load(ref.at[channels], mask=inside, other=0)[None]

    a, b, centre = of_channels(multiplier), of_channels(shift), of_channels(mean)
    dnormalised, product, *vectors = dproduct
    scale, slope, offset = (ref[...][None] for ref in vectors)
    kernel = (channels[:, None], outputs[None])
    weights = triton.load(
        w.at[first[0] * TILE_CHANNELS + channels[:, None], outputs[None]],
        mask=inside[:, None],
        other=0,
    )

    def add(step: jax.Array, totals: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        positive, deviations = totals
        place = split * rows + step * _GROUP_ROWS + jnp.arange(_GROUP_ROWS)
        pixels = (place[:, None], channels[None])
        across = (place[:, None], outputs[None])
        part = triton.load(x.at[pixels], mask=inside[None], other=0)
        dn, value = triton.load(dnormalised.at[across]), triton.load(product.at[across])
        gradient = (dn * scale + value * slope + offset).astype(x.dtype)
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


def _bytes_read(x: jax.Array, channels: int, w: Part, *others: Any) -> int:
    """Bytes of the first channels of a map, as many rows of kernels, and of other arrays."""
    pixels, width = x.shape[0], w.array.shape[1]
    return (pixels + width) * channels * x.dtype.itemsize + bytes_of(*others)
