"""Kernels for a GPU: batch normalisation, ReLU and 3x3 convolution to the channels a layer adds.

The map between the convolutions of a layer is normalised as it is read, so that it never goes to
memory normalised, and what is added goes into the growing map with its moments. Rows are the pixels
of all images, image by image and row by row.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxcovid.models.fused.execution import TILE_CHANNELS, TILE_PIXELS
from jaxcovid.models.fused.gpu.launch import bytes_of, in_tiles, launch, whole
from jaxcovid.models.fused.gpu.product import Part, store_moments
from jaxcovid.models.normalization import Affine, Moments

_TAPS = 9
_SPLITS = 32  # of the rows in `kernel_gradient`, at most


@functools.partial(jax.jit, static_argnames=("image", "interpret"))
def add_channels(
    x: jax.Array,
    start: int,
    product: jax.Array,
    norm: Affine,
    w: Part,
    image: tuple[int, int],
    *,
    interpret: bool = False,
) -> tuple[jax.Array, Moments]:
    """Writes the convolution of relu(norm(product)) into a map, and its moments in each tile.

    Args:
      x: [rows, channels], whose memory the result takes.
      start: first channel that is written.
      product: [rows, m].
      norm: of its channels.
      w: [9 m, g], dtype of `x`.
      image: height and width of an image, px.
      interpret: run without a GPU, for tests.

    Returns:
      The map [rows, channels], and moments float32 [tiles, g] of what is written.
    """
    rows, channels = x.shape
    m, g = product.shape[1], w.array.shape[1]
    tiles = rows // TILE_PIXELS
    moments = pl.BlockSpec((None, g), lambda i: (i, 0))
    of_moments = jax.ShapeDtypeStruct((tiles, g), jnp.float32)
    added = jax.ShapeDtypeStruct((rows, g), x.dtype)
    x, mean, var = launch(
        functools.partial(_convolution_kernel, image=image),
        *(x, product, *norm, w.array, in_tiles(start, w.first)),
        grid=(tiles,),
        in_specs=[
            whole(rows, channels),
            whole(rows, m),
            whole(m),
            whole(m),
            whole(*w.array.shape),
            whole(2),
        ],
        out_specs=[whole(rows, channels), moments, moments],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype), of_moments, of_moments],
        input_output_aliases={0: 0},
        traffic=(
            bytes_of(product, norm) + _bytes_of_kernel(w, m),
            bytes_of(added, of_moments, of_moments),
        ),
        interpret=interpret,
        name="add_channels",
    )
    return x, Moments(mean, var)


def _convolution_kernel(
    _: Any,
    product: Any,
    multiplier: Any,
    shift: Any,
    w: Any,
    tiles: Any,
    *results: Any,
    image: tuple[int, int],
) -> None:
    """A tile of `add_channels`."""
    x, mean, var = results
    start, first = tiles[0] * TILE_CHANNELS, tiles[1] * TILE_CHANNELS
    m, g = shift.size, w.shape[1]
    pixel = pl.program_id(0) * TILE_PIXELS + jnp.arange(TILE_PIXELS)
    norm = Affine(multiplier[...], shift[...])

    def add(tap: jax.Array, total: jax.Array) -> jax.Array:
        y = _normalised(product, norm, *_neighbour(pixel, tap, image))
        return total + pl.dot(y, w[pl.ds(first + tap * m, m), :])

    total = jax.lax.fori_loop(0, _TAPS, add, jnp.zeros((TILE_PIXELS, g), jnp.float32))
    rounded = total.astype(x.dtype)
    triton.store(x.at[pixel[:, None], (start + jnp.arange(g))[None]], rounded)
    store_moments(rounded, mean, var)


def _neighbour(
    pixel: jax.Array, tap: jax.Array, image: tuple[int, int], sign: int = 1
) -> tuple[jax.Array, jax.Array]:
    """The pixel that a tap of the kernel reads, and whether it lies inside the image."""
    height, width = image
    div, rem = jax.lax.div, jax.lax.rem  # of what is not negative
    down, right = sign * (div(tap, 3) - 1), sign * (rem(tap, 3) - 1)
    row, column = rem(div(pixel, width), height) + down, rem(pixel, width) + right
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return pixel + down * width + right, inside


def _read(ref: Any, pixel: jax.Array, inside: jax.Array) -> jax.Array:
    """Some rows of a map [rows, c], zeros for those outside."""
    place = (pixel[:, None], jnp.arange(ref.shape[1])[None])
    return triton.load(ref.at[place], mask=inside[:, None], other=0)


def _normalised(ref: Any, norm: Affine, pixel: jax.Array, inside: jax.Array) -> jax.Array:
    """Likewise after normalisation and ReLU."""
    y = jnp.maximum(_read(ref, pixel, inside) * norm.multiplier[None] + norm.shift[None], 0)
    return jnp.where(inside[:, None], y, 0).astype(ref.dtype)


@functools.partial(jax.jit, static_argnames=("image", "interpret"))
def map_gradient(
    dadded: jax.Array,
    product: jax.Array,
    norm: Affine,
    mean: jax.Array,
    w: Part,
    image: tuple[int, int],
    *,
    interpret: bool = False,
) -> tuple[jax.Array, Sequence[jax.Array]]:
    """Gradient of the convolution of `add_channels` by the normalised map, through the ReLU.

    Args:
      dadded: gradient by the result [rows, g].
      product: [rows, m].
      norm: of its channels.
      mean: of its channels, float32 [m].
      w: [9 m, g], dtype of `product`.
      image: height and width of an image, px.
      interpret: run without a GPU, for tests.

    Returns:
      The gradient [rows, m], and for each tile of rows its sum and that of it times the deviations
      of the product from its mean, float32 [tiles, m].
    """
    rows, m = product.shape
    g = dadded.shape[1]
    tiles = rows // TILE_PIXELS
    tile, sums = (
        pl.BlockSpec((TILE_PIXELS, m), lambda i: (i, 0)),
        pl.BlockSpec((None, m), lambda i: (i, 0)),
    )
    results = [
        jax.ShapeDtypeStruct((rows, m), product.dtype),
        jax.ShapeDtypeStruct((tiles, m), jnp.float32),
        jax.ShapeDtypeStruct((tiles, m), jnp.float32),
    ]
    dnormalised, *sums = launch(
        functools.partial(_map_gradient_kernel, image=image),
        *(dadded, product, *norm, mean, w.array, in_tiles(w.first)),
        grid=(tiles,),
        in_specs=[whole(rows, g), tile, *[whole(m)] * 3, whole(*w.array.shape), whole(1)],
        out_specs=[tile, sums, sums],
        out_shape=results,
        traffic=(bytes_of(dadded, product, norm, mean) + _bytes_of_kernel(w, m), bytes_of(results)),
        warps=8,
        interpret=interpret,
        name="map_gradient",
    )
    return dnormalised, sums


def _map_gradient_kernel(
    dadded: Any,
    product: Any,
    multiplier: Any,
    shift: Any,
    mean: Any,
    w: Any,
    tiles: Any,
    *results: Any,
    image: tuple[int, int],
) -> None:
    """A tile of `map_gradient`."""
    dnormalised, sum_dy, sum_dy_deviation = results
    m, first = shift.size, tiles[0] * TILE_CHANNELS
    pixel = pl.program_id(0) * TILE_PIXELS + jnp.arange(TILE_PIXELS)

    def add(tap: jax.Array, total: jax.Array) -> jax.Array:
        part = _read(dadded, *_neighbour(pixel, tap, image, sign=-1))
        return total + pl.dot(part, w[pl.ds(first + tap * m, m), :], trans_b=True)

    total = jax.lax.fori_loop(0, _TAPS, add, jnp.zeros(dnormalised.shape, jnp.float32))
    value = product[...]
    on = value * multiplier[...][None] + shift[...][None] > 0
    rounded = jnp.where(on, total, 0).astype(dnormalised.dtype)
    dnormalised[...] = rounded
    stored = rounded.astype(jnp.float32)
    sum_dy[...] = stored.sum(0)
    sum_dy_deviation[...] = (stored * (value - mean[...][None])).sum(0)


@functools.partial(jax.jit, static_argnames=("image", "interpret"))
def kernel_gradient(
    product: jax.Array,
    norm: Affine,
    dadded: jax.Array,
    image: tuple[int, int],
    *,
    interpret: bool = False,
) -> jax.Array:
    """Gradient of the convolution of `add_channels` by its kernel.

    Args:
      product: [rows, m].
      norm: of its channels.
      dadded: gradient by the result [rows, g].
      image: height and width of an image, px.
      interpret: run without a GPU, for tests.

    Returns:
      Its parts from some rows each, float32 [splits, 9, m, g].
    """
    rows, m = product.shape
    g = dadded.shape[1]
    tiles = rows // TILE_PIXELS
    splits = math.gcd(tiles, max(1, min(_SPLITS, tiles // 8)))
    result = jax.ShapeDtypeStruct((splits, _TAPS, m, g), jnp.float32)
    return launch(
        functools.partial(_kernel_gradient_kernel, tiles=tiles // splits, image=image),
        *(product, *norm, dadded),
        # Programs that read the same rows follow each other, so that they meet them in the cache.
        grid=(_TAPS, splits),
        in_specs=[whole(rows, m), whole(m), whole(m), whole(rows, g)],
        out_specs=[pl.BlockSpec((None, None, m, g), lambda tap, split: (split, tap, 0, 0))],
        out_shape=[result],
        traffic=(bytes_of(product, norm, dadded), bytes_of(result)),
        interpret=interpret,
        name="kernel_gradient",
    )[0]


def _kernel_gradient_kernel(
    product: Any,
    multiplier: Any,
    shift: Any,
    dadded: Any,
    dw: Any,
    *,
    tiles: int,
    image: tuple[int, int],
) -> None:
    """A tap of the kernel, from some rows."""
    tap, split = pl.program_id(0), pl.program_id(1)
    norm = Affine(multiplier[...], shift[...])

    def add(step: jax.Array, total: jax.Array) -> jax.Array:
        pixel = (split * tiles + step) * TILE_PIXELS + jnp.arange(TILE_PIXELS)
        y = _normalised(product, norm, *_neighbour(pixel, tap, image))
        gradient = triton.load(dadded.at[pixel[:, None], jnp.arange(dadded.shape[1])[None]])
        return total + pl.dot(y, gradient, trans_a=True)

    dw[...] = jax.lax.fori_loop(0, tiles, add, jnp.zeros(dw.shape, jnp.float32))


def _bytes_of_kernel(w: Part, m: int) -> int:
    """Bytes of the kernel of a layer."""
    return _TAPS * m * w.array.shape[1] * w.array.dtype.itemsize
