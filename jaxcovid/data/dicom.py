"""DICOM files to 8-bit gray: CT through a lung window, X-rays through the window they bring.

Standard: DICOM PS3.3, C.7.6.3 (pixels), C.11.1 and C.11.2 (modality and VOI lookup tables).
"""

import dataclasses
import io
import logging
import pathlib

import cv2
import numpy as np

from jaxcovid.data.images import LUNG_WINDOW, ImageError, is_dicom


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
        if not is_dicom(file.read(132)):
            return None
    import pydicom

    try:
        found = pydicom.dcmread(path, stop_before_pixels=True)
    except Exception:  # `read` says what is wrong with it
        return None
    return Header(
        modality=modality_of(str(found.get("Modality", ""))),
        patient=str(found.get("PatientID") or ""),
        series=str(found.get("SeriesInstanceUID") or ""),
    )


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
      ImageError: another modality, no pixels, colours, several frames, a compression that cannot
        be read, or a CT without its rescale values.
    """
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its errors are raised as well
    try:
        found = pydicom.dcmread(io.BytesIO(data))
    except Exception as error:  # a damaged header raises whatever its parser meets
        raise ImageError(f"the DICOM header is damaged ({error}); export the file again") from error
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
    try:
        pixels = found.pixel_array
    except Exception as error:  # each decoder has errors of its own
        syntax = found.file_meta.TransferSyntaxUID.name
        raise ImageError(
            f"DICOM pixels of {syntax} cannot be read ({error}); export the file uncompressed, or "
            "install pylibjpeg with its plugins"
        ) from error
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
    return cv2.convertScaleAbs(np.clip(scaled, 0, 255))
