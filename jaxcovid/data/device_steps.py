"""The five preprocessing steps in JAX, with the arithmetic of OpenCV's; see `preprocessing`."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxcovid.data.preprocessing import Preprocessing

PIXELS_AT_ONCE = 2**22  # that are worked on at a time, 16 MiB in float32
_TAPS = 5  # pixels for one that are added in OpenCV's order, enough for a side four times as long
_WEIGHT_ONE = 2**11  # of OpenCV's fixed-point weights between pixels


def four_steps(
    pixels: jax.Array,
    shape: jax.Array,
    resized: jax.Array,
    inverse: jax.Array,
    *,
    preprocessing: Preprocessing,
) -> jax.Array:
    """Takes steps 1 to 4 of one image, some rows at a time: a large one needs no more memory.

    Args:
      pixels: uint8 [side, side], those of the image one after another from the first on.
      shape: height and width of the image, int32 [2].
      resized: those after step 3, int32 [2].
      inverse: from a pixel (x, y) after step 1 to its place before, float32 [2, 3].
      preprocessing: the options of the steps.

    Returns:
      Gray levels, int32 [size, size].
    """
    side, size = len(pixels), preprocessing.size
    shrunk = jnp.minimum(shape, resized)
    by_rows = partial(jax.lax.map, batch_size=max(1, PIXELS_AT_ONCE // side))

    def warp(y: jax.Array) -> tuple[jax.Array, jax.Array]:
        levels = _warp_row(pixels.ravel(), y, shape, inverse, side=side, fill=preprocessing.fill)
        inside = (y < shape[0]) & (jnp.arange(side) < shape[1])
        counts = jnp.zeros(256, jnp.int32).at[levels].add(inside.astype(jnp.int32))
        return levels, counts

    image, counts = by_rows(warp, jnp.arange(side))
    table = jnp.arange(256, dtype=jnp.float32)
    if preprocessing.equalize:
        table = _equalizing_table(counts.sum(axis=0))
    rows, columns = (_area_weights(shape[i], shrunk[i], (size, side)) for i in range(2))
    product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    image = product(rows, by_rows(lambda levels: product(columns, table[levels]), image))
    return _finish(image, shape, resized, preprocessing)


def equalize_to_blur(pixels: jax.Array, *, preprocessing: Preprocessing) -> jax.Array:
    """Takes steps 2 to 4 of images of one shape, which may be symbolic (see `jax.export`).

    Args:
      pixels: uint8 [b, h, w].
      preprocessing: the options of the steps.

    Returns:
      Gray levels, int32 [b, size, size].
    """
    batch, height, width = pixels.shape
    size = preprocessing.size
    shape = jnp.stack([jnp.asarray(side, jnp.int32) for side in (height, width)])
    resized = jnp.full(2, size, jnp.int32)
    if preprocessing.keep_ratio:
        resized = jnp.maximum(1, jnp.round(shape * size / shape.max())).astype(jnp.int32)
    shrunk = jnp.minimum(shape, resized)
    levels = pixels.reshape(batch, -1).astype(jnp.int32)
    image = jnp.asarray(pixels, jnp.float32)
    if preprocessing.equalize:
        counts = jax.vmap(lambda row: jnp.zeros(256, jnp.int32).at[row].add(1))(levels)
        tables = jax.vmap(_equalizing_table)(counts)
        image = jnp.take_along_axis(tables, levels, axis=1).reshape(pixels.shape)
    # [b, h, w] to [w, b, size] and [size, b, size]: OpenCV, too, begins with the rows.
    columns_first = image.transpose(2, 0, 1)
    image = _shrink(columns_first, shape[1], shrunk[1], size).transpose(2, 1, 0)
    image = _shrink(image, shape[0], shrunk[0], size).transpose(1, 0, 2)
    return jax.vmap(lambda one: _finish(one, shape, resized, preprocessing))(image)


def _finish(
    image: jax.Array, shape: jax.Array, resized: jax.Array, preprocessing: Preprocessing
) -> jax.Array:
    """Steps 3 and 4 of an image whose sides that shrink have shrunk.

    Args:
      image: gray levels before they are rounded, float32 [size, size].
      shape: see `four_steps`, as is `resized`.
      resized: likewise.
      preprocessing: the options of the steps.

    Returns:
      Gray levels, int32 [size, size].
    """
    shrunk = jnp.minimum(shape, resized)
    # By whole factors OpenCV adds whole numbers; if both are 2 it rounds a half up, else to even.
    area = (shape[0] // shrunk[0]) * (shape[1] // shrunk[1])
    averaged = jnp.where((shape % shrunk == 0).all(), jnp.round(image * area) / area, image)
    halved = (shape == 2 * shrunk).all()
    image = jnp.where(halved, jnp.floor(averaged + 0.5), jnp.round(averaged))
    image = _enlarge(image.astype(jnp.int32), shrunk, resized)
    image = _centre(image, resized, preprocessing.fill)
    return _blur(image) if preprocessing.blur else image


def _warp_row(
    pixels: jax.Array, y: jax.Array, shape: jax.Array, inverse: jax.Array, *, side: int, fill: int
) -> jax.Array:
    """A row of step 1, linear between pixels as OpenCV's; outside the image `fill`.

    Args:
      pixels: uint8 [side * side], those of the image first.
      y: the row, int32.
      shape: see `four_steps`, as is `inverse`.
      inverse: likewise.
      side: pixels of the result.
      fill: gray level.

    Returns:
      Gray levels, uint8 [side].
    """
    x = jnp.arange(side, dtype=jnp.float32)
    at_x, at_y = (inverse[i, 0] * x + (inverse[i, 1] * y + inverse[i, 2]) for i in range(2))
    left, top = jnp.floor(at_x), jnp.floor(at_y)
    right_share, bottom_share = at_x - left, at_y - top

    def level(row: jax.Array, column: jax.Array) -> jax.Array:
        row, column = row.astype(jnp.int32), column.astype(jnp.int32)
        inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
        found = pixels.at[row * shape[1] + column].get(mode="clip")
        return jnp.where(inside, found, fill).astype(jnp.float32)

    def between(row: jax.Array) -> jax.Array:
        first, second = level(row, left), level(row, left + 1)
        return first + right_share * (second - first)

    upper, lower = between(top), between(top + 1)
    return jnp.round(upper + bottom_share * (lower - upper)).astype(jnp.uint8)


def _equalizing_table(counts: jax.Array) -> jax.Array:
    """Step 2: the new of each gray level, float32 [256], from how many pixels have it."""
    cumulative = jnp.cumsum(counts)
    first = jnp.where(cumulative > 0, cumulative, counts.sum()).min()  # of the darkest level
    rest = counts.sum() - first
    table = jnp.round((cumulative - first) * (255 / jnp.maximum(rest, 1)))
    return jnp.where(rest > 0, table, jnp.arange(256, dtype=jnp.float32))


def _area_weights(old: jax.Array, new: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Step 3 along a side that shrinks: the share of pixel j of `old` in pixel i of `new`.

    Returns:
      float32 of that shape; rows past `new` are of no use.
    """
    return _shares(jnp.arange(shape[0])[:, None], jnp.arange(shape[1])[None], old, new)


def _shares(i: jax.Array, j: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    """The shares of pixels j of a side `old` in pixels i of the shorter side `new`.

    In whole numbers up to the last division: pixel i covers i * old to (i + 1) * old of a side that
    is new * old long, and pixel j covers j * new to (j + 1) * new.
    """
    overlap = jnp.where(
        j < old,
        jnp.maximum(jnp.minimum((i + 1) * old, (j + 1) * new) - jnp.maximum(i * old, j * new), 0),
        0,
    )
    # Compilers multiply by a reciprocal instead, and 219 * (1 / 438) is less than a half. What that
    # leaves over comes from two products: the first, of 12 binary digits each, is exact, the second
    # so small that its rounding does not count.
    share = overlap / old
    first = jnp.round(share * 2**12) / 2**12
    return share + ((overlap - first * old) - (share - first) * old) / old


def _shrink(image: jax.Array, old: jax.Array, new: jax.Array, size: int) -> jax.Array:
    """Step 3 along the first axis, bit for bit as OpenCV up to `_TAPS` pixels for one.

    Sums that end near a half round as OpenCV's if every addition rounds as it does: pixels are
    added one after another. The maximum changes no product, but keeps a compiler from joining
    product and sum into one operation that rounds once.

    Args:
      image: gray levels, float32 [old, b, c].
      old: its first side.
      new: what becomes of it.
      size: places of the result, of which `new` are used.

    Returns:
      float32 [size, b, c].
    """
    i = jnp.arange(size)
    first = i * old // new
    total = jnp.zeros((size, *image.shape[1:]), jnp.float32)
    for j in (first + tap for tap in range(_TAPS)):
        pixels = image.at[jnp.minimum(j, old - 1)].get(mode="promise_in_bounds")
        total += jnp.maximum(pixels * _shares(i, j, old, new)[:, None, None], 0.0)
    (side, *_) = image.shape
    weights = _area_weights(old, new, (size, side))
    rest = jnp.where(jnp.arange(side)[None] < first[:, None] + _TAPS, 0.0, weights)
    return total + jnp.tensordot(rest, image, axes=1, precision=jax.lax.Precision.HIGHEST)


def _enlarge(image: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    """Step 3 along the sides that grow, linearly with OpenCV's fixed-point weights.

    Args:
      image: gray levels int32 [size, size], of which `old` [2] are used.
      old: height and width.
      new: those of the result.

    Returns:
      Gray levels, int32 [size, size].
    """
    places = jnp.arange(len(image))

    def taps(axis: int) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
        # Whole numbers are divided once, and OpenCV's share, too, is what is left of a float32.
        whole = jax.lax.optimization_barrier(jnp.full(places.shape, 2 * new[axis]))
        position = ((2 * places + 1) * old[axis] - new[axis]) / whole
        first = jnp.floor(position).astype(jnp.int32)
        share = position - first
        neighbours = tuple(jnp.clip(first + i, 0, old[axis] - 1) for i in range(2))
        weights = tuple(
            jnp.round(part * _WEIGHT_ONE).astype(jnp.int32) for part in (1 - share, share)
        )
        return neighbours, weights

    (left, right), (left_weight, right_weight) = taps(1)
    image = image[:, left] * left_weight[None] + image[:, right] * right_weight[None]
    (top, bottom), (top_weight, bottom_weight) = taps(0)
    upper = (image[top] >> 4) * top_weight[:, None]
    lower = (image[bottom] >> 4) * bottom_weight[:, None]
    return ((upper >> 16) + (lower >> 16) + 2) >> 2


def _centre(image: jax.Array, shape: jax.Array, fill: int) -> jax.Array:
    """The `shape` [2] first pixels of an image [size, size] in its middle, `fill` around them."""
    size = len(image)
    start = (size - shape) // 2
    places = jnp.arange(size)
    filled = [(places >= start[i]) & (places < start[i] + shape[i]) for i in range(2)]
    rows, columns = (jnp.clip(places - start[i], 0, size - 1) for i in range(2))
    image = image[rows][:, columns]
    return jnp.where(filled[0][:, None] & filled[1][None], image, fill)


def _blur(image: jax.Array) -> jax.Array:
    """Step 4, on whole numbers; a half rounds up, as OpenCV's does."""
    padded = jnp.pad(image, 1, mode="reflect")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:] + 8) // 16


def normalize(
    images: jax.Array, levels: jax.Array | None = None, *, preprocessing: Preprocessing
) -> jax.Array:
    """Takes step 5.

    Args:
      images: gray levels, uint8 [b, size, size].
      levels: the new of each gray level of each image, uint8 [b, 256]; None changes none.
      preprocessing: the options of the steps.

    Returns:
      float32 [b, size, size, 1].
    """
    if levels is not None:
        images = jax.vmap(lambda table, image: table[image])(levels, images)
    images = images.astype(jnp.float32)[..., None]
    if preprocessing.mean is not None:
        return (images - preprocessing.mean) / preprocessing.std
    images -= images[:, :1, :1]  # of a constant image nothing is left, not even rounding
    mean, std = (f(images, axis=(1, 2, 3), keepdims=True) for f in (jnp.mean, jnp.std))
    return (images - mean) / jnp.where(std > 0, std, 1)
