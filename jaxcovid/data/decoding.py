"""Encoded images to 8-bit gray: what every other package needs of image files.

Which decoder takes a file is decided by its content: `dicom` or `raster`.
"""

import pathlib

import numpy as np

from jaxcovid.data import dicom, raster
from jaxcovid.data.dicom.signature import is_dicom
from jaxcovid.data.hounsfield import LUNG_WINDOW
from jaxcovid.data.image_error import MAX_BYTES, ImageError, check_size, read_file
from jaxcovid.data.raster import as_gray, exif_orientation, is_16_bit

__all__ = [
    "LUNG_WINDOW",
    "MAX_BYTES",
    "ImageError",
    "as_gray",
    "colour_of",
    "decode_gray",
    "exif_orientation",
    "is_16_bit",
    "is_dicom",
    "read_file",
    "read_usable",
]


def decode_gray(
    data: bytes,
    *,
    modality: str = "",
    window: tuple[float, float] = LUNG_WINDOW,
    hu_offset: float | None = None,
) -> np.ndarray:
    """Decodes one image file to 8-bit gray.

    The format is taken from the content, never from the file's name (COVID-CT has JPEG data in
    `.png` files). Colour becomes gray by its luminance (.299 R + .587 G + .114 B), of a JPEG the
    one that the file stores; an opaque alpha channel is dropped; 16-bit gray is scaled to its own
    range (lowest value 0, highest 255), unless `hu_offset` says what its values are; in a TIFF
    whose lowest value is white, values count from the other end.
    An EXIF orientation is ignored: one file always gives one array, whatever program re-saved it,
    and data sets that were prepared before stay what they are. Scanners and PACS write none, but
    the photo of a film may have one, and viewers turn it: see `exif_orientation`. That of a TIFF is
    part of the format and is followed.
    For DICOM see `dicom.read`.

    Args:
      data: the bytes of a PNG, JPEG, BMP, TIFF, WebP, single-frame GIF or DICOM file.
      modality: "CT" or "X-ray" to refuse DICOM files of any other; empty takes all.
      window: centre and width in Hounsfield units, for CT in DICOM files and with `hu_offset`.
      hu_offset: value + hu_offset are the Hounsfield units of 16-bit PNG and TIFF files, which go
        through the window; None scales them to their own range. Other files ignore it.

    Returns:
      Gray image, uint8 [h, w], 0..255.

    Raises:
      ImageError: the data is empty, no image, too small or too large, cut short, damaged, CMYK, of
        several frames, transparent, of floating-point values or of another modality, or
        `hu_offset` makes no Hounsfield units of its values. The size is read from the header,
        before anything is decoded.
    """
    if not data:
        raise ImageError("the file is empty (0 bytes); copy it again from its source")
    if is_dicom(data):
        gray = dicom.read(data, modality=modality, window=window)
        check_size(*gray.shape)
        return gray
    return raster.decode(data, window=window, hu_offset=hu_offset)


def colour_of(image: bytes | np.ndarray) -> float:
    """Measures how much colour an image has, see `raster.colour_of`; DICOM has none.

    Raises:
      ImageError: another decoder than that of `decode_gray` takes it for damaged.
    """
    return 0.0 if isinstance(image, bytes) and is_dicom(image) else raster.colour_of(image)


def read_usable(
    path: pathlib.Path,
    *,
    window: tuple[float, float] = LUNG_WINDOW,
    hu_offset: float | None = None,
) -> tuple[bytes, np.ndarray]:
    """Reads an image file: its bytes and its gray image, if everything that reads it later can.

    Args: see `decode_gray`.

    Raises:
      ImageError: it cannot be used; says why.
      OSError: it cannot be read.
    """
    data = read_file(path)
    gray = decode_gray(data, window=window, hu_offset=hu_offset)
    colour_of(data)
    return data, gray
