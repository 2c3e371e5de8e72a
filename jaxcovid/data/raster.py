"""PNG, JPEG, BMP, TIFF, WebP and GIF files, and arrays, to 8-bit gray by one set of rules.

The rules are those of the network's input: one gray slice or film, nothing hidden in it. What
would change the picture silently (transparency, CMYK, several frames, a file cut short) is
refused with a message that says what to do.
"""

import io
from collections.abc import Mapping

import cv2
import numpy as np
from PIL import Image

from jaxcovid.data.hounsfield import LUNG_WINDOW, check_hounsfield, through_window
from jaxcovid.data.image_error import MAX_PIXELS, ImageError, check_size

# Of a progressive JPEG, each a pass over all pixels; encoders make about ten.
_MAX_SCANS = 100

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")

# TIFF's tags, the same in EXIF, and a value of the first.
_PHOTOMETRIC, _ORIENTATION, _WHITE_IS_ZERO = 262, 274, 0


def decode(
    data: bytes, *, window: tuple[float, float] = LUNG_WINDOW, hu_offset: float | None = None
) -> np.ndarray:
    """Decodes one file to 8-bit gray; see `decoding.decode_gray` for the rules.

    Args:
      data: the bytes of the file.
      window: centre and width in Hounsfield units, used with `hu_offset`.
      hu_offset: value + hu_offset are the Hounsfield units of 16-bit PNG and TIFF files.

    Returns:
      Gray image, uint8 [h, w], 0..255.

    Raises:
      ImageError: the file cannot be used.
    """
    header, transparent = _read_header(data)
    image = _read_pixels(data, header)
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
    return _to_gray(image, {3: cv2.COLOR_BGR2GRAY, 4: cv2.COLOR_BGRA2GRAY})


def _read_header(data: bytes) -> tuple[Image.Image, bool]:
    """The header of a file of one picture, and whether it has transparency; no pixel is decoded.

    Raises:
      ImageError: no image, too small or too large, CMYK, of several frames or of too many scans.
    """
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
    return header, transparent


def _read_pixels(data: bytes, header: Image.Image) -> np.ndarray:
    """The pixels as OpenCV decodes them: gray [h, w], BGR [h, w, 3] or BGRA [h, w, 4].

    Raises:
      ImageError: the file is cut short or damaged.
    """
    # A JPEG's colours would be made from its luminance, at the cost of all the other steps.
    luminance = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    mode = luminance if header.format == "JPEG" else cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    except cv2.error:  # some decoders raise it, others give nothing
        image = None
    if image is None:
        width, height = header.size
        raise ImageError(
            f"{header.format} of {width} x {height} px is cut short or damaged "
            f"({len(data):,} bytes); copy it again from its source"
        )
    return image


def is_16_bit(data: bytes) -> bool:
    """True for 16-bit gray in a file that is not DICOM; False for all else."""
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS).mode.startswith("I;16")
    except Exception:  # `decode` says what is wrong with it
        return False


def exif_orientation(data: bytes) -> int:
    """Reads the EXIF orientation: 1 is upright, as is a file without any; 2 to 8 turn it.

    `decode` ignores it, viewers follow it. 1 of a TIFF, whose own orientation both follow.
    """
    try:
        header = Image.open(io.BytesIO(data), formats=_FORMATS)
        value = 1 if header.format == "TIFF" else header.getexif().get(_ORIENTATION, 1)
        return value if value in range(1, 9) else 1
    except Exception:  # `decode` says what is wrong with it
        return 1


def colour_of(image: bytes | np.ndarray) -> float:
    """Measures how much colour an image has, in levels of 255: 0 for gray, also if tinted.

    The root mean square distance of its colours from a straight line, of which gray is one.

    Args:
      image: an encoded image, or an array as in `as_gray`.

    Raises:
      ImageError: another decoder than that of `decode` takes it for damaged.
    """
    if isinstance(image, bytes):
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
    """Turns an array into 8-bit gray by the rules of `decode`.

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
    return _to_gray(np.ascontiguousarray(array), {3: cv2.COLOR_RGB2GRAY, 4: cv2.COLOR_RGBA2GRAY})


def _to_gray(array: np.ndarray, to_gray: Mapping[int, int]) -> np.ndarray:
    """Turns pixels uint8 or uint16 into gray uint8 [h, w]; `to_gray` has OpenCV's codes."""
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
