"""DICOM files to 8-bit gray: CT through a lung window, X-rays through the window they bring.

Standard: DICOM PS3.3, C.7.6.3 (pixels), C.11.1 and C.11.2 (modality and VOI lookup tables).
"""

import dataclasses
import io
import itertools
import logging
import pathlib
import zlib
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import Image

from jaxcovid.data.images import LUNG_WINDOW, MAX_BYTES, ImageError, check_size, is_dicom


@dataclasses.dataclass(frozen=True)
class Header:
    """What a DICOM file says of its pixels.

    Attributes:
      modality: "CT", "X-ray", or what else the file calls it.
      patient: id, empty if the file has none.
      series: unique identifier of the series, empty if the file has none.
    """

    modality: str
    patient: str
    series: str


def header_of(path: pathlib.Path) -> Header | None:
    """The header of a DICOM file; None of another file, or one that cannot be read."""
    with path.open("rb") as file:
        if not is_dicom(file.read(132)) or path.stat().st_size > MAX_BYTES:
            return None
        import pydicom

        try:
            _check_deflated(file)
            found = pydicom.dcmread(file, stop_before_pixels=True)
            return Header(
                modality=modality_of(str(found.get("Modality", ""))),
                patient=str(found.get("PatientID") or ""),
                series=str(found.get("SeriesInstanceUID") or ""),
            )
        except Exception:  # `read` says what is wrong with it
            return None


def modality_of(term: str) -> str:
    """The standard's terms of plain radiography become "X-ray", all others stay as they are."""
    return "X-ray" if term in ("CR", "DX", "DR", "RG") else term


def read(
    data: bytes, *, modality: str = "", window: tuple[float, float] = LUNG_WINDOW
) -> np.ndarray:
    """Reads one slice or film: gray, uint8 [h, w], 0 black to 255 white.

    A CT's values become Hounsfield units by its rescale slope and intercept, and those of the
    window become 0 to 255. An X-ray's go through its VOI window or table if it has one; what is
    left of their range becomes 0 to 255, inverted if MONOCHROME1 (low values are white).

    Args:
      data: the bytes of the file.
      modality: "CT" or "X-ray" to refuse all others; empty takes any.
      window: centre and width in Hounsfield units, for CT.

    Raises:
      ImageError: another modality, no pixels, too many or too few of them, colours, several frames,
        a compression that cannot be read, or a CT without its rescale values. The size is read from
        the header, before any pixel is decoded.
    """
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its errors are raised as well
    try:
        return _read(data, modality, window)
    except ImageError:
        raise
    except Exception as error:  # a damaged header raises whatever its parser meets
        raise ImageError(f"the DICOM header is damaged ({error}); export the file again") from error


def _read(data: bytes, modality: str, window: tuple[float, float]) -> np.ndarray:
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    file = io.BytesIO(data)
    _check_deflated(file)
    found = pydicom.dcmread(file)
    kind = modality_of(str(found.get("Modality", "")))
    if modality and kind != modality:
        raise ImageError(f"a DICOM file of modality {kind or 'unknown'}, where {modality} is meant")
    if "PixelData" not in found:
        raise ImageError(f"a DICOM file of modality {kind or 'unknown'} without pixels")
    frames = int(found.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ImageError(f"a DICOM file of {frames} frames; export them one by one")
    colours = str(found.get("PhotometricInterpretation", ""))
    if colours not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError(f"DICOM pixels of {colours or 'unknown colours'}; export it in gray")
    check_size(int(found.Rows), int(found.Columns))
    if found.file_meta.TransferSyntaxUID.is_encapsulated:
        _check_compressed(found)
    try:
        pixels = found.pixel_array
    except Exception as error:  # each decoder has errors of its own
        syntax = found.file_meta.TransferSyntaxUID.name
        raise ImageError(
            f"DICOM pixels of {syntax} cannot be read ({error}); export the file uncompressed, or "
            "install pylibjpeg with its plugins"
        ) from error
    if pixels.ndim != 2:
        raise ImageError(f"DICOM pixels of shape {pixels.shape}; export one gray image")
    values = apply_modality_lut(pixels, found)
    if kind == "CT":
        if "RescaleIntercept" not in found:
            raise ImageError("a CT slice without rescale slope and intercept has no known units")
        centre, width = window
        scaled = (values - (centre - width / 2)) * (255 / width)
    else:
        values = apply_voi_lut(values, found).astype(np.float64)
        low, high = values.min(), values.max()
        scaled = (values - low) * (255 / max(high - low, 1e-9))
        if colours == "MONOCHROME1":
            scaled = 255 - scaled
    if not np.isfinite(scaled).all():
        raise ImageError("the DICOM file's rescale values or window are no usable numbers")
    return cv2.convertScaleAbs(np.clip(scaled, 0, 255))


def _check_deflated(file: BinaryIO) -> None:
    """Refuses a deflated file that unpacks to more than a file may have; pydicom takes any.

    Raises:
      ImageError: it does.
    """
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    file.seek(0)
    read_preamble(file, False)
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


def _check_compressed(found: Any) -> None:
    """Refuses compressed pixels that unpack to more than the header promises.

    Raises:
      ImageError: they do, or they are too many.
    """
    from pydicom.encaps import get_frame
    from pydicom.uid import RLELossless

    frame = get_frame(found.PixelData, 0, number_of_frames=1)
    if found.file_meta.TransferSyntaxUID == RLELossless:
        count, *offsets = np.frombuffer(frame[:64], "<u4").tolist()
        for start, end in itertools.pairwise([*offsets[:count], len(frame)]):
            _check_run_lengths(frame[start:end], limit=2 * found.Rows * found.Columns)
        return
    try:
        picture = Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000"))
    except OSError:  # of another kind, which the decoder names
        return
    check_size(picture.height, picture.width)


def _check_run_lengths(segment: bytes, *, limit: int) -> None:
    """Refuses a segment of PS3.5, annex G, of more than so many bytes: two can become 128."""
    position = unpacked = 0
    while position < len(segment):
        head = segment[position]
        unpacked += 257 - head if head > 128 else (head + 1) % 129
        position += 2 if head > 128 else 1 + (head + 1) % 129
        if unpacked > limit:
            raise ImageError("DICOM pixels that unpack to more than the header says; export again")
