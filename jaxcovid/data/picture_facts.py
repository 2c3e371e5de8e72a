"""Facts of a picture as a whole that have nothing to do with a disease: size, grays, border.

The audit of a data set and the facts that a network keeps of its training measure them here, so
that one picture has one value of each.
"""

from typing import NamedTuple

import cv2
import numpy as np

SIDE_PX = 128  # of the small copies that pictures are compared by
BLACK = 5  # highest gray level that counts as black
_THUMBNAIL_PX = 16
_DECIMALS = 4  # what differs by less is the same; decoders differ by less


class Fact(NamedTuple):
    """What is measured, and the unit of its values, empty if they have none."""

    name: str
    unit: str


FACTS = (
    Fact("width", "px"),
    Fact("height", "px"),
    Fact("aspect ratio", ""),
    Fact("file size", "bytes per pixel"),
    Fact("mean gray", "gray levels"),
    Fact("contrast", "gray levels"),
    Fact("sharpness", "gray levels"),
    Fact("brightness of the border", "gray levels"),
    Fact("black pixels", "%"),
    Fact("colour", "gray levels"),
)


def shrink(gray: np.ndarray) -> np.ndarray:
    """The small copy of a picture uint8 [h, w]: uint8 [128, 128]."""
    return cv2.resize(gray, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)


def sharpness(small: np.ndarray) -> float:
    """Standard deviation of the Laplacian of a small copy, gray levels: of fine detail."""
    return float(cv2.Laplacian(small, cv2.CV_64F).std())


def border(small: np.ndarray) -> np.ndarray:
    """The outermost ring of a 16 x 16 thumbnail of a small copy, gray levels: float64 [60]."""
    size = (_THUMBNAIL_PX, _THUMBNAIL_PX)
    thumbnail = cv2.resize(small, size, interpolation=cv2.INTER_AREA).astype(np.float64)
    ring = np.ones(size, bool)
    ring[1:-1, 1:-1] = False
    return thumbnail[ring]


def measure(gray: np.ndarray, colour: float, file_bytes: int | None) -> np.ndarray:
    """The values of `FACTS`, float64 [10].

    Args:
      gray: uint8 [h, w].
      colour: see `decoding.colour_of`.
      file_bytes: size of the encoded picture; None makes the file size NaN.
    """
    (height, width), small = gray.shape, shrink(gray)
    values = (
        width,
        height,
        width / height,
        np.nan if file_bytes is None else file_bytes / (width * height),
        gray.mean(),
        gray.std(),
        sharpness(small),
        border(small).mean(),
        100 * np.mean(gray <= BLACK),
        colour,
    )
    return np.round(np.array(values, np.float64), _DECIMALS)
