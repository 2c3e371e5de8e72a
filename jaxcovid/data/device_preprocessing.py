"""The five preprocessing steps on the accelerator, for hosts short of cores.

The host decodes an image, draws its random numbers and packs both; the rest runs with the batch.
The result is that of `preprocessing.Preprocessing` for the same numbers, up to rounding: after
step 4 at most one pixel in 200 is off by a gray level of 255, and one in 10,000 by more, where
step 2 spreads what step 1 rounded the other way.

Images travel without padding. On a device each is laid into the smallest square canvas of
`SIDES_PX` that holds it, so that a program is compiled for each canvas and not for each shape.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxcovid.data import device_steps
from jaxcovid.data.geometry import resized_shape
from jaxcovid.data.image_error import ImageError
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.runtime.sharding import batch_sharding

# Sides of the canvases: a film has up to 4,300 px, and no square image of more is decoded.
SIDES_PX = (256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
Packed = dict[str, np.ndarray]  # see `pack` and `pack_batch`


def pack(
    image: np.ndarray,
    *,
    preprocessing: Preprocessing,
    rng: np.random.Generator,
    masks: np.ndarray | None = None,
) -> Packed:
    """Packs what the device needs of one image.

    Args:
      image: gray, uint8 [h, w].
      preprocessing: the five steps.
      rng: source of all that is random.
      masks: uint8 [h, w, c]; None if there are none to take along.

    Returns:
      `pixels` uint8 [h * w]; `shape` int32 [2], the height and width; `resized` int32 [2], those
      after step 3; `inverse` float32 [2, 3], from a pixel (x, y) after step 1 to its place before;
      if there are any, `levels`, see `preprocessing.Drawn`, and `masks`, ready for the network,
      uint8 [size, size, c].

    Raises:
      ImageError: a side is longer than the largest of `SIDES_PX`.
    """
    height, width = image.shape
    if max(height, width) > SIDES_PX[-1]:
        raise ImageError(
            f"{width} x {height} px: preprocessing on the device takes at most {SIDES_PX[-1]} px a "
            "side; shrink the image, or use --config.preprocess_on=host"
        )
    drawn = preprocessing.draw(image, rng)
    resized = resized_shape(image.shape, preprocessing.size, preprocessing.keep_ratio)
    packed = {
        "pixels": drawn.image.ravel(),
        "shape": np.array(image.shape, np.int32),
        "resized": np.array(resized, np.int32),
        "inverse": cv2.invertAffineTransform(drawn.matrix).astype(np.float32),
    }
    if drawn.levels is not None:
        packed["levels"] = drawn.levels
    if masks is not None:
        packed["masks"] = preprocessing.place_masks(masks, drawn.matrix)
    return packed


def pack_batch(rows: Sequence[Packed]) -> Packed:
    """Joins rows to a batch: `pixels` one after another, uint8 [total], all else stacked."""
    joined = {"pixels": np.concatenate([row["pixels"] for row in rows])}
    others = rows[0].keys() - joined.keys()
    return joined | {name: np.stack([row[name] for row in rows]) for name in others}


class Unpacker:
    """Turns packed batches of this process into global batches of images on the devices."""

    def __init__(self, mesh: Mesh, *, preprocessing: Preprocessing) -> None:
        """Compiles nothing yet.

        Args:
          mesh: see `sharding.make_mesh`.
          preprocessing: the five steps.
        """
        self._mesh, self._size = mesh, preprocessing.size
        self._unpack_chunk = jax.jit(
            partial(_unpack_chunk, preprocessing=preprocessing), donate_argnums=0
        )
        self._normalize = jax.jit(partial(device_steps.normalize, preprocessing=preprocessing))

    def __call__(self, packed: Packed) -> jax.Array:
        """Takes the five steps of a batch.

        Each device works on its own rows, whatever their sizes, so that processes need not agree.

        Args:
          packed: see `pack_batch`; the rows of this process.

        Returns:
          float32 [b, size, size, 1], the global batch, sharded by rows.
        """
        images = np.split(packed["pixels"], np.cumsum(packed["shape"].prod(axis=1))[:-1])
        devices = self._mesh.local_devices
        rows = len(images) // len(devices)
        parts = []
        for i, device in enumerate(devices):
            own = slice(i * rows, (i + 1) * rows)
            geometry = {name: packed[name][own] for name in ("shape", "resized", "inverse")}
            blurred = self._unpack_rows(images[own], geometry, device)
            levels = [jax.device_put(packed["levels"][own], device)] if "levels" in packed else []
            parts.append(self._normalize(blurred, *levels))
        shape = (rows * self._mesh.size, *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, batch_sharding(self._mesh), parts)

    def _unpack_rows(
        self, images: Sequence[np.ndarray], geometry: Packed, device: jax.Device
    ) -> jax.Array:
        """The images of one device after step 4: uint8 [rows, size, size]."""
        blurred = jnp.zeros((len(images), self._size, self._size), jnp.uint8, device=device)
        for rows, canvases in _chunks(images, geometry):
            blurred = self._unpack_chunk(blurred, *jax.device_put((rows, canvases), device))
        return blurred


def _chunks(
    images: Sequence[np.ndarray], geometry: Packed
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Lays images into canvases, as many of one size at a time as a device works on.

    Args:
      images: uint8 [h * w] each.
      geometry: `shape`, `resized` and `inverse`, see `pack_batch`.

    Yields:
      Their places, int32 [n], and `pixels` uint8 [n, side, side], the image's one after another
      from the first on, with their geometry. A canvas without image has a place past the last.
    """
    canvas = np.searchsorted(SIDES_PX, geometry["shape"].max(axis=1))
    for index in np.unique(canvas):
        side, same = SIDES_PX[index], np.flatnonzero(canvas == index)
        n = max(1, min(len(images), device_steps.PIXELS_AT_ONCE // side**2))
        for chosen in np.split(same, range(n, len(same), n)):
            pixels = np.zeros((n, side * side), np.uint8)
            for i, row in enumerate(chosen):
                pixels[i, : images[row].size] = images[row]
            rows = np.pad(chosen, (0, n - len(chosen)), constant_values=len(images))
            canvases = {name: x.take(rows, axis=0, mode="clip") for name, x in geometry.items()}
            yield rows.astype(np.int32), canvases | {"pixels": pixels.reshape(n, side, side)}


def _unpack_chunk(
    blurred: jax.Array,
    rows: jax.Array,
    canvases: dict[str, jax.Array],
    *,
    preprocessing: Preprocessing,
) -> jax.Array:
    """Takes steps 1 to 4 of some images and puts them into their rows of uint8 [b, size, size]."""
    done = jax.vmap(partial(device_steps.four_steps, preprocessing=preprocessing))(**canvases)
    return blurred.at[rows].set(done.astype(jnp.uint8), mode="drop")
