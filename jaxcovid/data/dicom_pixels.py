"""Stored values of DICOM files: parsing, decompression, and what both may not be made to do.

Standard: DICOM PS3.3, C.7.6.3 (pixels), C.7.6.16 (functional groups); PS3.5, 8 (encoding).
"""

import dataclasses
import io
import itertools
import struct
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from jaxcovid.data.decoding import MAX_BYTES, ImageError, check_size

_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # as float, as double, as integers
_REQUIRED = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
)
# Transfer syntaxes: RLE, JPEG of 8 bits and JPEG 2000 are for plugins of pydicom; JPEG of 12 bits
# and JPEG Lossless (process 14, its selection value 1) for libjpeg-turbo.
_JPEG = "1.2.840.10008.1.2.4."
_PLUGINS = {"1.2.840.10008.1.2.5": "pydicom", _JPEG + "50": "pillow"}
_PLUGINS |= {_JPEG + "90": "pillow", _JPEG + "91": "pillow"}
_BY_LIBJPEG = {_JPEG + "51", _JPEG + "57", _JPEG + "70"}
# Frames of a JPEG: all but the markers of tables, restarts and arithmetic conditioning.
_JPEG_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


@dataclasses.dataclass(frozen=True)
class Stored:
    """Values of one frame as they are stored.

    Attributes:
      values: integers [h, w].
      padding: bool [h, w], where the file says that there is no picture.
    """

    values: np.ndarray
    padding: np.ndarray


def parse(file: BinaryIO, stop_when: Callable[[Any, str | None, int], bool] | None = None) -> Any:
    """The data set of a DICOM file, with or without its preamble and meta header.

    Args:
      file: open for reading.
      stop_when: gets tag, type and length of each element; True ends the reading before it.

    Returns:
      A `pydicom.FileDataset` with a transfer syntax.

    Raises:
      ImageError: a deflated file that unpacks to more than a file may have.
      Exception: whatever pydicom meets in a damaged file.
    """
    from pydicom import uid
    from pydicom.filereader import read_partial

    _check_deflated(file)
    dataset = read_partial(file, stop_when, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        plain = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else plain
    return dataset


def parse_header(file: BinaryIO) -> tuple[Any, bool]:
    """The data set before its pixels, and whether it has any; see `parse`."""
    reached = []

    def at_pixels(tag: Any, vr: str | None, length: int) -> bool:
        if tag in _PIXELS:
            reached.append(tag)
        return bool(reached)

    return parse(file, at_pixels), bool(reached)


def macro(dataset: Any, sequence: str, index: int = 0) -> Any:
    """The elements of a functional group that hold for a frame; of other files the data set."""
    for groups, item in (
        ("PerFrameFunctionalGroupsSequence", index),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        items = dataset.get(groups) or []
        if item < len(items) and (inner := items[item].get(sequence)):
            return inner[0]
    return dataset


def name_of(keyword: str) -> str:
    """Keyword and tag of an element, as messages give them: `Rows (0028,0010)`."""
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword) or 0
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def number(dataset: Any, keyword: str, *, several: bool = False) -> float | None:
    """A finite number, the first where there may be several; None if it is missing or empty.

    Raises:
      ImageError: it is no number.
    """
    value = dataset.get(keyword)
    if several and value is not None and not isinstance(value, str | int | float):
        value = value[0] if len(value) else None
    if value is None or value == "":
        return None
    try:
        found = float(str(value))
    except ValueError:
        found = np.nan
    if not np.isfinite(found):
        raise ImageError(
            f"the DICOM element {name_of(keyword)} is {str(value)[:40]!r}, no finite number; "
            "correct it or export the file again"
        )
    return found


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
    """The encoded bytes of each frame.

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
    found = list(itertools.islice(frames, count))
    if len(found) < count:
        raise ImageError(
            f"the DICOM element {name_of('NumberOfFrames')} is {count}, but there are pixels of "
            f"{len(found)}; the file was cut short, so copy it again from its source"
        )
    return found


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
        _check_compressed(dataset, frame)
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
    """The decoded values of one frame; uncompressed, with all of their allocated bits."""
    import imagecodecs
    from pydicom import uid
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in _BY_LIBJPEG:
        return imagecodecs.jpeg8_decode(frame)
    if syntax in uid.JPEGLSTransferSyntaxes:
        return imagecodecs.jpegls_decode(frame)
    compressed = syntax.is_encapsulated
    allocated, signed = int(dataset.BitsAllocated), int(dataset.PixelRepresentation)
    options: dict[str, Any] = {"decoding_plugin": _PLUGINS[syntax]} if compressed else {}
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
    """The lowest so many bits of each as integers, in two's complement if signed."""
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


def _check_deflated(file: BinaryIO) -> None:
    """Refuses a deflated file that unpacks to more than a file may have; pydicom takes any.

    Raises:
      ImageError: it does.
    """
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    file.seek(0)
    read_preamble(file, True)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    unpacked = 0
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        unpacker, rest = zlib.decompressobj(-zlib.MAX_WBITS), file.read()
        while rest and unpacked <= MAX_BYTES:
            unpacked += len(unpacker.decompress(rest, 2**20))
            rest = unpacker.unconsumed_tail
    file.seek(0)
    if unpacked > MAX_BYTES:
        raise ImageError(
            f"a deflated DICOM file of more than {MAX_BYTES:,} bytes; export it uncompressed"
        )


def _check_compressed(dataset: Any, frame: bytes) -> None:
    """Refuses a compressed frame that unpacks to another size than the header promises.

    Raises:
      ImageError: it does, is damaged, or is of a compression that cannot be read.
    """
    from pydicom import uid

    syntax, rows, columns = dataset.file_meta.TransferSyntaxUID, dataset.Rows, dataset.Columns
    if syntax == uid.RLELossless:
        count, *offsets = np.frombuffer(frame[:64], "<u4").tolist()
        for start, end in itertools.pairwise([*offsets[:count], len(frame)]):
            _check_run_lengths(frame[start:end], limit=dataset.BitsAllocated // 8 * rows * columns)
        return
    if syntax in _BY_LIBJPEG or syntax in (uid.JPEGBaseline8Bit, *uid.JPEGLSTransferSyntaxes):
        size = _jpeg_size(frame)
    elif syntax in _PLUGINS:
        try:
            picture = Image.open(io.BytesIO(frame), formats=("JPEG2000",))
            size = picture.height, picture.width
        except (OSError, ValueError, SyntaxError) as error:
            raise ImageError(f"the pixels are no {syntax.name}; export uncompressed") from error
    else:
        raise ImageError(f"DICOM pixels of {syntax.name} cannot be read; export uncompressed")
    if size != (rows, columns):
        raise ImageError(
            f"compressed pixels of {size[1]} x {size[0]} px where the DICOM header says "
            f"{columns} x {rows}; export the file again"
        )


def _jpeg_size(frame: bytes) -> tuple[int, int]:
    """Height and width by the frame header of a JPEG, JPEG Lossless or JPEG-LS codestream.

    Raises:
      ImageError: there is none, it is of colours, or the codestream has no end (of which decoders
        make gray rows, or search for it for seconds).
    """
    if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise ImageError("the compressed DICOM pixels were cut short; copy the file again")
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 10 <= len(frame) and frame[at] == 0xFF:
        if frame[at + 1] == 0xFF:  # a filling byte
            at += 1
            continue
        length, _, height, width, samples = struct.unpack_from(">HBHHB", frame, at + 2)
        if frame[at + 1] in _JPEG_FRAMES:
            if samples != 1:
                raise ImageError(f"compressed DICOM pixels of {samples} samples; export it in gray")
            return height, width
        at += 2 + length
    raise ImageError("the compressed DICOM pixels are damaged; copy the file again from its source")


def _check_run_lengths(segment: bytes, *, limit: int) -> None:
    """Refuses a segment of PS3.5, annex G, of more than so many bytes: two can become 128."""
    position = unpacked = 0
    while position < len(segment):
        head = segment[position]
        unpacked += 257 - head if head > 128 else (head + 1) % 129
        position += 2 if head > 128 else 1 + (head + 1) % 129
        if unpacked > limit:
            raise ImageError("DICOM pixels that unpack to more than the header says; export again")
