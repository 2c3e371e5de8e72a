"""Elements of DICOM files: parsing, numbers, and those that hold for one frame.

Standard: DICOM PS3.3, C.7.6.16 (functional groups); PS3.5, 7 (data elements).
"""

import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from jaxcovid.data.image_error import MAX_BYTES, ImageError

_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # as float, as double, as integers


def parse(file: BinaryIO, stop_when: Callable[[Any, str | None, int], bool] | None = None) -> Any:
    """Parses a DICOM file, with or without its preamble and meta header.

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
    """Parses a file up to its pixels; returns that and whether it has any; see `parse`."""
    reached = []

    def at_pixels(tag: Any, vr: str | None, length: int) -> bool:
        if tag in _PIXELS:
            reached.append(tag)
        return bool(reached)

    return parse(file, at_pixels), bool(reached)


def macro(dataset: Any, sequence: str, index: int = 0) -> Any:
    """Returns the elements of a functional group that hold for a frame, or the whole data set."""
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
    """Reads a finite number, the first of several; None if it is missing or empty.

    Raises:
      ImageError: it is no number.
    """
    value = dataset.get(keyword)
    if several and value is not None and not isinstance(value, str | int | float):
        value = value[0] if len(value) else None
    if value is None or value == "":
        return None
    try:
        result = float(str(value))
    except ValueError:
        result = np.nan
    if not np.isfinite(result):
        raise ImageError(
            f"the DICOM element {name_of(keyword)} is {str(value)[:40]!r}, no finite number; "
            "correct it or export the file again"
        )
    return result


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
