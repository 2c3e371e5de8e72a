"""Stored values of DICOM files: what the header must say of them, and their decoding.

Standard: DICOM PS3.3, C.7.6.3 (pixels); PS3.5, 8 (encoding).
"""

import dataclasses
import itertools
from typing import Any

import numpy as np

from jaxcovid.data.dicom.compression import BY_LIBJPEG, PLUGINS, check_compressed
from jaxcovid.data.dicom.elements import name_of, number
from jaxcovid.data.image_error import ImageError, check_size

_REQUIRED = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
)


@dataclasses.dataclass(frozen=True)
class Stored:
    """Values of one frame as they are stored.

    Attributes:
      values: integers [h, w].
      padding: bool [h, w], where the file says that there is no picture.
    """

    values: np.ndarray
    padding: np.ndarray


def check_pixels(dataset: Any) -> int:
    """Checks that the elements about the pixels are there and agree, before any is decoded.

    Returns:
      How many frames the file has.

    Raises:
      ImageError: one is missing or of a value that cannot be read, or the pixels are too few.
    """
    for keyword in _REQUIRED:
        if dataset.get(keyword) in (None, ""):
            raise ImageError(
                f"the DICOM element {name_of(keyword)} is missing or empty, so the pixels are "
                "not defined; export the file again"
            )
    colours = str(dataset.PhotometricInterpretation)
    if colours not in ("MONOCHROME1", "MONOCHROME2") or dataset.SamplesPerPixel != 1:
        raise ImageError(
            f"DICOM pixels of {colours}, {dataset.SamplesPerPixel} samples each; export it in gray"
        )
    rows, columns, allocated, stored = (
        int(dataset[keyword].value)
        for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored")
    )
    frames = int(number(dataset, "NumberOfFrames") or 1)
    check_size(rows, columns)
    if allocated not in (8, 16, 32):
        raise ImageError(f"the DICOM element {name_of('BitsAllocated')} is {allocated}; export 16")
    if not 1 <= stored <= allocated:
        raise ImageError(
            f"the DICOM element {name_of('BitsStored')} is {stored} where "
            f"{name_of('BitsAllocated')} is {allocated}; export the file again"
        )
    if dataset.PixelRepresentation not in (0, 1):
        raise ImageError(f"the DICOM element {name_of('PixelRepresentation')} is neither 0 nor 1")
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        expected = rows * columns * allocated // 8 * frames
        if dataset["PixelData"].is_undefined_length:
            raise ImageError(
                f"the DICOM element {name_of('TransferSyntaxUID')} is missing or wrong: the pixels "
                "are compressed; export the file again"
            )
        if len(dataset.PixelData or b"") < expected:
            raise ImageError(
                f"the DICOM element {name_of('PixelData')} has {len(dataset.PixelData or b''):,} "
                f"bytes, {expected:,} are needed for {frames} x {columns} x {rows} px of "
                f"{allocated} bits; the file was cut short, so copy it again from its source"
            )
    return frames


def split_frames(dataset: Any, count: int) -> list[bytes]:
    """Splits the pixels into the encoded bytes of each frame.

    Raises:
      ImageError: there are not as many as the header says.
    """
    from pydicom.encaps import generate_frames

    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        size = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8
        return [dataset.PixelData[i * size : (i + 1) * size] for i in range(count)]
    extended = None
    if dataset.get("ExtendedOffsetTable"):
        extended = dataset.ExtendedOffsetTable, dataset.get("ExtendedOffsetTableLengths")
    frames = generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=extended)
    encoded = list(itertools.islice(frames, count))
    if len(encoded) < count:
        raise ImageError(
            f"the DICOM element {name_of('NumberOfFrames')} is {count}, but there are pixels of "
            f"{len(encoded)}; the file was cut short, so copy it again from its source"
        )
    return encoded


def decode(dataset: Any, frame: bytes) -> Stored:
    """Decodes one frame; `check_pixels` has checked the header.

    Values of `BitsStored` bits that end at `HighBit` are taken out of `BitsAllocated`.

    Raises:
      ImageError: the frame is of another size than the header says, its compression cannot be
        read, or bits beside the stored ones are in use where `HighBit` is unusual.
    """
    stored, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation)
    syntax = dataset.file_meta.TransferSyntaxUID
    if compressed := syntax.is_encapsulated:
        check_compressed(dataset, frame)
    try:
        array = _array(dataset, frame)
    except Exception as error:  # each decoder has errors of its own
        message = " ".join(str(error).split())
        raise ImageError(
            f"DICOM pixels of {syntax.name} cannot be read ({message}); export the file "
            "uncompressed or as JPEG 2000, or copy it again if it was cut short"
        ) from error
    if array.shape != (dataset.Rows, dataset.Columns):
        raise ImageError(f"DICOM pixels of shape {array.shape}; export one gray image")
    unsigned = np.ascontiguousarray(array).view(f"u{array.itemsize}")
    bits = 8 * array.itemsize
    values, spare = unsigned, int(number(dataset, "HighBit") or stored - 1) + 1 - stored
    if spare:
        outside = ~(((1 << stored) - 1) << spare) & ((1 << bits) - 1) if spare > 0 else -1
        if compressed or outside < 0 or np.bitwise_and(unsigned, outside).any():
            raise ImageError(
                f"the DICOM element {name_of('HighBit')} is {dataset.HighBit} where "
                f"{name_of('BitsStored')} is {stored}, which does not fit the pixels; export the "
                f"file again with {stored - 1}"
            )
        values = unsigned >> spare
    values = _signed(values, min(stored, bits), signed)
    padding = np.zeros(values.shape, bool)
    if (ends := _padding_ends(dataset)) is not None:
        # In all of the allocated bits too: 63536, which is -2000 in 16 bits, pads 12-bit slices.
        for reading in (values, _signed(unsigned, bits, signed)):
            padding |= (reading >= ends[0]) & (reading <= ends[1])
    return Stored(values, padding)


def _array(dataset: Any, frame: bytes) -> np.ndarray:
    """Decodes the values of one frame; uncompressed ones with all of their allocated bits."""
    import imagecodecs
    from pydicom import uid
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in BY_LIBJPEG:
        return imagecodecs.jpeg8_decode(frame)
    if syntax in uid.JPEGLSTransferSyntaxes:
        return imagecodecs.jpegls_decode(frame)
    compressed = syntax.is_encapsulated
    allocated, signed = int(dataset.BitsAllocated), int(dataset.PixelRepresentation)
    options: dict[str, Any] = {"decoding_plugin": PLUGINS[syntax]} if compressed else {}
    array, _ = get_decoder(syntax).as_array(
        encapsulate([frame]) if compressed else frame,
        index=0,
        raw=True,
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        samples_per_pixel=1,
        photometric_interpretation=str(dataset.PhotometricInterpretation),
        number_of_frames=1,
        bits_allocated=allocated,
        bits_stored=int(dataset.BitsStored) if compressed else allocated,
        pixel_representation=signed if compressed else 0,
        pixel_keyword="PixelData",
        pixel_vr=dataset["PixelData"].VR,
        **options,
    )
    return array


def _signed(values: np.ndarray, bits: int, signed: int) -> np.ndarray:
    """Reads the lowest `bits` bits of each value, in two's complement if signed."""
    values = values.astype(np.int32 if bits < 32 else np.int64) & ((1 << bits) - 1)
    return np.where(values >> (bits - 1) == 1, values - (1 << bits), values) if signed else values


def _padding_ends(dataset: Any) -> np.ndarray | None:
    """Lowest and highest value of padding (PS3.3, C.7.5.1.1.2); None if the file names none.

    The elements may be signed where the pixels are not, and the reverse.
    """
    first = number(dataset, "PixelPaddingValue")
    if first is None:
        return None
    last = number(dataset, "PixelPaddingRangeLimit")
    ends = np.array([first, first if last is None else last]).astype(np.int64)
    return np.sort(_signed(ends, int(dataset.BitsAllocated), int(dataset.PixelRepresentation)))
