"""Encoded images and arrays to 8-bit gray, with one set of rules for both.

The rules are those of the network's input: one gray slice or film, nothing hidden in it. What
would change the picture silently (transparency, CMYK, several frames, a file cut short) is
refused with a message that says what to do.
"""

import io
import os
import pathlib
from collections.abc import Mapping

import cv2
import numpy as np
from PIL import Image

from jaxcovid.data.dicom_signature import is_dicom as is_dicom

MIN_SIDE_PX = 16
MAX_PIXELS = 64_000_000
MAX_BYTES = 2**28  # of a file
# Of a progressive JPEG, each a pass over all pixels; encoders make about ten.
_MAX_SCANS = 100

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")


class ImageError(ValueError):
    """An image that cannot be used; the message says why and what to do."""


# TIFF's tags, the same in EXIF, and a value of the first.
_PHOTOMETRIC, _ORIENTATION, _WHITE_IS_ZERO = 262, 274, 0

# The least that any slice of a chest has; lung is at -900 to -500, the air around at -1000.
_LUNG_AT_MOST = -500

# Centre and width of the lung window, Hounsfield units.
LUNG_WINDOW = (-600.0, 1500.0)


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
    Of DICOM see `dicom.read`.

    Args:
      data: The bytes of a PNG, JPEG, BMP, TIFF, WebP, single-frame GIF or DICOM file.
      modality: "CT" or "X-ray" to refuse DICOM files of any other; empty takes all.
      window: Centre and width in Hounsfield units, for CT in DICOM files and with `hu_offset`.
      hu_offset: Value + hu_offset are the Hounsfield units of 16-bit PNG and TIFF files, which go
        through the window; None scales them to their own range. Other files ignore it.

    Returns:
      Gray image, uint8 [h, w], 0..255.

    Raises:
      ImageError: If the data is empty, no image, too small or too large, cut short, damaged, CMYK,
        of several frames, transparent, of floating-point values or of another modality, or if
        `hu_offset` makes no Hounsfield units of its values. The size is read from the header,
        before anything is decoded.
    """
    if not data:
        raise ImageError("the file is empty (0 bytes); copy it again from its source")
    if is_dicom(data):
        from jaxcovid.data import dicom

        gray = dicom.read(data, modality=modality, window=window)
        check_size(*gray.shape)
        return gray
    try:
        header = Image.open(io.BytesIO(data), formats=_FORMATS)
        frames = header.n_frames if getattr(header, "is_animated", False) else 1
        transparent = header.has_transparency_data
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{error} At most {MAX_PIXELS:,} pixels are accepted; shrink the image"
        ) from error
    except Exception as error:  # a damaged header raises whatever its parser meets
        raise ImageError(
            f"no readable image ({len(data):,} bytes that begin with {data[:16]!r}); "
            f"give {', '.join(_FORMATS)} or DICOM, or copy the file again if it was cut short"
        ) from error
    width, height = header.size
    check_size(height, width)
    if header.mode == "CMYK":
        raise ImageError(
            "CMYK colours (made for printing) are not accepted; save it as gray or RGB"
        )
    if frames > 1:
        raise ImageError(f"animated {header.format} of {frames} frames; save the one that is meant")

    if header.format == "JPEG" and (scans := data.count(b"\xff\xda")) > _MAX_SCANS:
        raise ImageError(f"a JPEG of {scans:,} scans would take too long; save it anew")

    # A JPEG's colours would be made from its luminance, at the cost of all the other steps.
    luminance = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    mode = luminance if header.format == "JPEG" else cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    except cv2.error:  # some decoders raise it, others give nothing
        image = None
    if image is None:
        raise ImageError(
            f"{header.format} of {width} x {height} px is cut short or damaged "
            f"({len(data):,} bytes); copy it again from its source"
        )
    if image.ndim == 2 and transparent:
        raise ImageError("one gray level is marked as transparent; save the image without it")
    deep = image.dtype in (np.uint16, np.int16)
    if deep and header.format == "TIFF" and header.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        image = np.invert(image)  # OpenCV does so for 8 bits alone
    if deep and hu_offset is not None and image.ndim == 2:
        check_size(*image.shape)
        hounsfield = image + float(hu_offset)
        check_hounsfield(hounsfield.min(), hounsfield.max())
        return through_window(hounsfield, window)
    return _gray(image, {3: cv2.COLOR_BGR2GRAY, 4: cv2.COLOR_BGRA2GRAY})


def through_window(hounsfield: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Hounsfield units to uint8 of the same shape: the window's lower edge 0, its upper 255."""
    centre, width = window
    scaled = (hounsfield - (centre - width / 2)) * (255 / width)
    return cv2.convertScaleAbs(np.clip(scaled, 0, 255))


def check_hounsfield(lowest: float, highest: float) -> None:
    """Refuses values that are no Hounsfield units of a chest, which has air (-1000) in it.

    Args:
      lowest: value of an image or a volume.
      highest: value of it.

    Raises:
      ImageError: the lowest is above -500, or one of them is not finite.
    """
    if np.isfinite([lowest, highest]).all() and lowest <= _LUNG_AT_MOST:
        return
    kind = ""
    if lowest >= 0 and highest <= 1:
        kind = "they are a mask, or were scaled to 0..1; "
    elif lowest >= 0 and highest <= 255:
        kind = (
            "they are a mask, or gray levels that went through a window before and must not again: "
            "save those as 8-bit PNG; "
        )
    elif lowest >= 0:
        kind = "scanners often store Hounsfield units + 1024; "
    raise ImageError(
        f"values from {lowest:g} to {highest:g} are no Hounsfield units of a chest, which reach "
        f"below {_LUNG_AT_MOST}; {kind}give Hounsfield units"
    )


def is_16_bit(data: bytes) -> bool:
    """True of 16-bit gray in a file that is not DICOM; False of all else and of no image."""
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS).mode.startswith("I;16")
    except Exception:  # `decode_gray` says what is wrong with it
        return False


def exif_orientation(data: bytes) -> int:
    """The EXIF orientation of an image file: 1 is upright, as is one that has none; 2 to 8 turn it.

    `decode_gray` ignores it, viewers follow it. 1 of a TIFF, whose own orientation both follow.
    """
    try:
        header = Image.open(io.BytesIO(data), formats=_FORMATS)
        found = 1 if header.format == "TIFF" else header.getexif().get(_ORIENTATION, 1)
        return found if found in range(1, 9) else 1
    except Exception:  # `decode_gray` says what is wrong with it
        return 1


def read_file(path: pathlib.Path) -> bytes:
    """The bytes of an image file.

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


def colour_of(image: bytes | np.ndarray) -> float:
    """How much colour an image has, in levels of 255: 0 of gray, and of gray that is tinted.

    The root mean square distance of its colours from a straight line, of which gray is one.

    Args:
      image: an encoded image, or an array as in `as_gray`.

    Raises:
      ImageError: another decoder than that of `decode_gray` finds it damaged.
    """
    if isinstance(image, bytes):
        if is_dicom(image):
            return 0.0
        try:
            picture = Image.open(io.BytesIO(image), formats=_FORMATS)
            if picture.mode not in ("P", "RGB", "RGBA", "CMYK", "YCbCr"):
                return 0.0
            picture.draft("RGB", (256, 256))  # a JPEG is decoded at about this size
            image = np.asarray(picture.convert("RGB").resize((64, 64)))
        except Exception as error:  # each format's parser has errors of its own
            raise ImageError(
                f"its colours cannot be read ({error}); save the image anew"
            ) from error
    if image.ndim == 2 or image.shape[2] == 1:
        return 0.0
    colours = image[..., :3].reshape(-1, 3) * (255 / np.iinfo(image.dtype).max)
    spread = np.linalg.svd(np.cov(colours, rowvar=False), compute_uv=False)  # variances
    return float(np.sqrt(spread[1] + spread[2]))


def as_gray(array: np.ndarray) -> np.ndarray:
    """Turns an array into 8-bit gray by the rules of `decode_gray`.

    Args:
      array: uint8 (0..255) or uint16 (scaled to its own range): gray [h, w] or [h, w, 1], RGB
        [h, w, 3] or RGBA [h, w, 4].

    Returns:
      Gray image, uint8 [h, w], 0..255.

    Raises:
      ImageError: If the shape, the type or the size is not accepted or alpha is transparent.
    """
    array = np.asarray(array)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(
            f"an array of shape {array.shape} is no single image; "
            "give [h, w], [h, w, 1], [h, w, 3] (RGB) or [h, w, 4] (RGBA)"
        )
    return _gray(np.ascontiguousarray(array), {3: cv2.COLOR_RGB2GRAY, 4: cv2.COLOR_RGBA2GRAY})


def _gray(array: np.ndarray, to_gray: Mapping[int, int]) -> np.ndarray:
    """Gray uint8 [h, w] of pixels uint8 or uint16; `to_gray` is OpenCV's code by channels."""
    if array.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            f"pixels of type {array.dtype} have no known range; give uint8 (0..255) or uint16, "
            "for example (255 * array).astype(np.uint8) for values in 0..1"
        )
    check_size(*array.shape[:2])
    channels = array.shape[2] if array.ndim == 3 else 1
    if channels == 4:
        opaque = np.iinfo(array.dtype).max
        lowest = cv2.minMaxLoc(cv2.extractChannel(array, 3))[0]
        if lowest < opaque:
            raise ImageError(
                f"alpha goes down to {lowest:.0f} (opaque is {opaque}), so the gray values are not "
                "defined; flatten the image onto its background"
            )
    array = (
        array.reshape(array.shape[:2]) if channels == 1 else cv2.cvtColor(array, to_gray[channels])
    )
    if array.dtype == np.uint16:
        array = cv2.normalize(array, None, 0, 255, cv2.NORM_MINMAX, dtype=cv2.CV_8U)
    return array


def read_usable(
    path: pathlib.Path,
    *,
    window: tuple[float, float] = LUNG_WINDOW,
    hu_offset: float | None = None,
) -> tuple[bytes, np.ndarray]:
    """The bytes of an image file and its gray image, if everything that reads it later can.

    Args: see `decode_gray`.

    Raises:
      ImageError: it cannot be used; says why.
      OSError: it cannot be read.
    """
    data = read_file(path)
    gray = decode_gray(data, window=window, hu_offset=hu_offset)
    colour_of(data)
    return data, gray


def check_size(height: int, width: int) -> None:
    """Refuses an image that is too small or too large, with an `ImageError`."""
    if min(height, width) < MIN_SIDE_PX:
        raise ImageError(
            f"{width} x {height} px is too small; at least {MIN_SIDE_PX} px a side are needed"
        )
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"{width} x {height} px are {height * width:,} pixels; at most {MAX_PIXELS:,} are "
            "accepted, so shrink the image"
        )
