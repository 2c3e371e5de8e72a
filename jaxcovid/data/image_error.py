"""The error of an image that cannot be used, and the limits that every image must keep."""

import os
import pathlib

MIN_SIDE_PX = 16
MAX_PIXELS = 64_000_000
MAX_BYTES = 2**28  # of a file


class ImageError(ValueError):
    """An image that cannot be used; the message says why and what to do."""


def check_size(height: int, width: int) -> None:
    """Refuses an image that is too small or too large.

    Raises:
      ImageError: a side is below `MIN_SIDE_PX`, or there are more than `MAX_PIXELS` pixels.
    """
    if min(height, width) < MIN_SIDE_PX:
        raise ImageError(
            f"{width} x {height} px is too small; at least {MIN_SIDE_PX} px a side are needed"
        )
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"{width} x {height} px are {height * width:,} pixels; at most {MAX_PIXELS:,} are "
            "accepted, so shrink the image"
        )


def read_file(path: pathlib.Path) -> bytes:
    """Reads the bytes of an image file.

    Raises:
      ImageError: there are more than `MAX_BYTES`; none is read then.
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise ImageError(
                f"the file has {size:,} bytes; at most {MAX_BYTES:,} are accepted, so shrink the "
                "image"
            )
        return file.read(size)
