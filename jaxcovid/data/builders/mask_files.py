"""Files of masks, as data sets publish them."""

import contextlib
import pathlib
from collections.abc import Iterator

import numpy as np

from jaxcovid.data import decoding
from jaxcovid.data.image_error import ImageError, read_file

_JPEG = b"\xff\xd8"


@contextlib.contextmanager
def naming_mask(feature: str, path: pathlib.Path) -> Iterator[None]:
    """Says which mask it is that cannot be used."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{feature} {path.name}: {error}") from error


def read_mask(path: pathlib.Path, shape: tuple[int, int]) -> np.ndarray:
    """Reads the mask of an image: bool [h, w], True where its file is not black.

    Args:
        path: Of the mask.
        shape: Height and width of the image.

    Raises:
        ImageError: If it cannot be decoded, is a JPEG, has 16 bits or another size.
        OSError: If it cannot be read.
    """
    data = read_file(path)
    if data.startswith(_JPEG):
        raise ImageError("a JPEG blurs the edges of a mask; save it as PNG")
    if decoding.is_16_bit(data):
        raise ImageError("a mask of 16 bits a pixel; save it with 8")
    mask = decoding.decode_gray(data) > 0
    if mask.shape != shape:
        raise ImageError(
            f"{mask.shape[1]} x {mask.shape[0]} px, the image has {shape[1]} x {shape[0]}; save "
            "the mask in the size of its image"
        )
    return mask
