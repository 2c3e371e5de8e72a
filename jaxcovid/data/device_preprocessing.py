"""The five preprocessing steps on the accelerator, for hosts short of cores.

The host only decodes an image, draws its random numbers and packs both; the rest runs with the
batch. The result is that of `preprocessing.Preprocessing` for the same numbers, up to rounding.
After step 4 a tenth of the pixels is off by a gray level of 255 if a side of the image grows (as
OpenCV's fixed-point weights make it), else a few in a thousand; a lone one is off by more, where
step 2 spreads what step 1 rounded the other way.

Images have at most `SIDE_PX` a side, as those of the pre-decoded configuration of a data set have.
"""

from functools import partial
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxcovid.data.decoding import ImageError
from jaxcovid.data.preprocessing import Preprocessing, random_affine, resized_shape
from jaxcovid.runtime.sharding import batch_sharding

SIDE_PX = 320


def pack(
    image: np.ndarray, *, preprocessing: Preprocessing, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Packs what the device needs of one image.

    Args:
      image: gray, uint8 [h, w].
      preprocessing: the five steps.
      rng: source of the random rotation and translation.

    Returns:
      `pixels` uint8 [SIDE_PX, SIDE_PX], the image in its upper left corner; `shape` int32 [2], its
      height and width; `resized` int32 [2], those after step 3; `inverse` float32 [2, 3], from a
      pixel (x, y) after step 1 to its place before.

    Raises:
      ImageError: a side is longer than `SIDE_PX`.
    """
    height, width = image.shape
    if max(height, width) > SIDE_PX:
        raise ImageError(
            f"{width} x {height} px: preprocessing on the device takes at most {SIDE_PX} px a "
            "side; use a pre-decoded configuration such as covid_ct/gray320, or "
            "--config.preprocess_on=host"
        )
    matrix = random_affine(
        (height, width),
        rng=rng,
        rotation_deg=preprocessing.rotation_deg,
        translation_fraction=preprocessing.translation_fraction,
    )
    resized = resized_shape(image.shape, preprocessing.size, preprocessing.keep_ratio)
    return {
        "pixels": np.pad(image, ((0, SIDE_PX - height), (0, SIDE_PX - width))),
        "shape": np.array(image.shape, np.int32),
        "resized": np.array(resized, np.int32),
        "inverse": cv2.invertAffineTransform(matrix).astype(np.float32),
    }


def jit_unpack(mesh: Mesh, *, preprocessing: Preprocessing) -> Any:
    """(what `pack` gives, stacked and sharded by rows) -> images float32 [b, size, size, 1]."""
    rows = batch_sharding(mesh)
    one = partial(_unpack, preprocessing=preprocessing)
    return jax.jit(
        lambda packed: jax.vmap(one)(packed)[..., None], in_shardings=rows, out_shardings=rows
    )


def _unpack(packed: dict[str, jax.Array], *, preprocessing: Preprocessing) -> jax.Array:
    """The five steps of one image: float32 [size, size]."""
    shape, resized = packed["shape"], packed["resized"]
    places = jnp.arange(SIDE_PX)
    inside = (places[:, None] < shape[0]) & (places[None] < shape[1])
    image = packed["pixels"].astype(jnp.float32)
    image = _warp(image, packed["inverse"], inside, preprocessing.fill)
    image = _equalize(image, inside)
    image = _resize(image, shape, resized, preprocessing)
    image = _blur(image)
    if preprocessing.mean is not None:
        return (image - preprocessing.mean) / preprocessing.std
    std = image.std()
    return (image - image.mean()) / jnp.where(std > 0, std, 1)


def _warp(image: jax.Array, inverse: jax.Array, inside: jax.Array, fill: int) -> jax.Array:
    """Step 1, linear between pixels as OpenCV's; outside the image `fill`."""
    image = jnp.where(inside, image, fill)
    y, x = jnp.mgrid[:SIDE_PX, :SIDE_PX].astype(jnp.float32)
    at_x = inverse[0, 0] * x + (inverse[0, 1] * y + inverse[0, 2])
    at_y = inverse[1, 0] * x + (inverse[1, 1] * y + inverse[1, 2])
    values = jax.scipy.ndimage.map_coordinates(image, [at_y, at_x], order=1, cval=fill)
    return jnp.round(values)


def _equalize(image: jax.Array, inside: jax.Array) -> jax.Array:
    """Step 2, over the pixels inside."""
    levels = image.astype(jnp.int32)
    counts = jnp.zeros(256, jnp.int32).at[levels].add(inside.astype(jnp.int32))
    first = counts[jnp.argmax(counts > 0)]
    rest = counts.sum() - first
    table = jnp.round((jnp.cumsum(counts) - first) * (255 / jnp.maximum(rest, 1)))
    return jnp.where(rest > 0, table[levels], image)


def _resize(
    image: jax.Array, shape: jax.Array, resized: jax.Array, preprocessing: Preprocessing
) -> jax.Array:
    """Step 3: [SIDE_PX, SIDE_PX] -> [size, size], a matrix product along each side."""
    size = preprocessing.size
    product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    rows, columns = (_weights(shape[i], resized[i], size) for i in range(2))
    image = jnp.round(product(product(rows, image), columns.T))
    start = (size - resized) // 2
    image = jnp.roll(image, start, (0, 1))
    places = jnp.arange(size)
    filled = [(places >= start[i]) & (places < start[i] + resized[i]) for i in range(2)]
    return jnp.where(filled[0][:, None] & filled[1][None], image, preprocessing.fill)


def _weights(old: jax.Array, new: jax.Array, size: int) -> jax.Array:
    """[size, SIDE_PX]: share of each of `old` pixels in each of `new`.

    By area if there are fewer of them, linearly if more.
    """
    scale = old / new
    i, j = jnp.mgrid[:size, :SIDE_PX]
    overlap = jnp.minimum((i + 1) * scale, j + 1) - jnp.maximum(i * scale, j)
    centre = jnp.clip((i + 0.5) * scale - 0.5, 0, old - 1)
    linear = jnp.maximum(1 - jnp.abs(centre - j), 0)
    return jnp.where(scale >= 1, jnp.maximum(overlap, 0) / scale, linear)


def _blur(image: jax.Array) -> jax.Array:
    """Step 4; a half rounds up, as OpenCV's does."""
    padded = jnp.pad(image, 1, mode="reflect")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return jnp.floor((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:] + 8) / 16)
