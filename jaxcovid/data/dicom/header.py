"""What a DICOM file says of itself, and whether it is a picture to screen or to train on.

Standard: DICOM PS3.3, C.7.6.2 (orientation), C.7.6.16 (functional groups).
"""

import dataclasses
import pathlib
import re
from typing import Any

import numpy as np

from jaxcovid.data.dicom import elements
from jaxcovid.data.dicom.signature import is_dicom
from jaxcovid.data.dicom.warning_counts import quiet, reading
from jaxcovid.data.image_error import MAX_BYTES

_SCOUTS = {"LOCALIZER", "SCOUT", "TOPOGRAM", "SCANOGRAM"}
# Lowest cosine of the angle between slice normal and head-feet axis: 45 degrees.
_AXIAL = np.cos(np.pi / 4)


@dataclasses.dataclass(frozen=True)
class Header:
    """What a DICOM file says of itself.

    Attributes:
      modality: "CT", "X-ray", or what else the file calls it.
      patient: id, empty if the file has none.
      series: unique identifier of the series, empty if the file has none.
      frames: how many pictures it holds.
      left_out: why it is no picture to screen or to train on: it has no pixels, or it is of CT and
        a scout, or a slice (of several, any) whose normal is more than 45 degrees away from the
        head-feet axis, such as a coronal or sagittal reformat. A tilted gantry (30 degrees at
        most) stays in, as does a file that says nothing of it. Empty for a usable one.
      study: unique identifier of the study, empty if the file has none.
      height: of a single slice, where along the body's axis it lies, mm towards the head; None if
        it is not known.
    """

    modality: str
    patient: str
    series: str
    frames: int = 1
    left_out: str = ""
    study: str = ""
    height: float | None = None


# What replaces a PatientID that was taken out.
_NOBODY = re.compile(
    r"anon\w*|unknown|none|null|n/?a|no ?id|patient|test|[0x*?._ -]*", re.IGNORECASE
)


def is_placeholder(patient: str) -> bool:
    """True if a PatientID names nobody: it replaces one that was taken out."""
    return bool(_NOBODY.fullmatch(patient.strip()))


def header_of(path: pathlib.Path) -> Header | None:
    """Reads the header of a DICOM file; None for another file, or one that cannot be read."""
    with path.open("rb") as file:
        if not is_dicom(file.read(1024)) or path.stat().st_size > MAX_BYTES:
            return None
        try:
            with reading(path):
                quiet()
                dataset, has_pixels = elements.parse_header(file)
                frames = max(1, int(elements.number(dataset, "NumberOfFrames") or 1))
                return Header(
                    modality=modality_of(str(dataset.get("Modality") or "")),
                    patient=str(dataset.get("PatientID") or ""),
                    series=str(dataset.get("SeriesInstanceUID") or ""),
                    frames=frames,
                    left_out=_left_out(dataset, has_pixels, frames),
                    study=str(dataset.get("StudyInstanceUID") or ""),
                    height=height_of(dataset),
                )
        except Exception:  # `read` says what is wrong with it
            return None


def _left_out(dataset: Any, has_pixels: bool, frames: int) -> str:
    """See `Header`."""
    if "DirectoryRecordSequence" in dataset:
        return "DICOMDIR"
    modality = str(dataset.get("Modality") or "")
    if not has_pixels:
        return f"objects without pixels ({modality or 'unknown'})"
    if modality != "CT":
        return ""
    terms = set(dataset.get("ImageType") or [])
    groups = len(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    for index in range(min(frames, max(groups, 1))):
        terms |= set(
            elements.macro(dataset, "CTImageFrameTypeSequence", index).get("FrameType") or []
        )
        if terms & _SCOUTS:
            return "scouts (localizers)"
        if not _is_axial(elements.macro(dataset, "PlaneOrientationSequence", index)):
            return "slices that are not axial"
    return ""


def _is_axial(dataset: Any) -> bool:
    """True for a slice within 45 degrees of axial, or of unknown orientation."""
    normal = _normal(dataset)
    return normal is None or bool(abs(normal[2]) >= _AXIAL)


def _normal(dataset: Any) -> np.ndarray | None:
    """The unit normal of a slice (x to the left, y to the back, z to the head); None if unknown."""
    try:
        row, column = np.array(dataset.get("ImageOrientationPatient"), float).reshape(2, 3)
    except (TypeError, ValueError):  # missing, or no six numbers
        return None
    normal = np.cross(row, column)
    length = np.linalg.norm(normal)
    return normal / length if np.isfinite(length) and length > 0.1 else None


def height_of(dataset: Any) -> float | None:
    """Where along the body's axis a slice or a frame lies, mm towards the head; None if unknown."""
    try:
        height = float(dataset.get("ImagePositionPatient")[2])
    except (TypeError, ValueError, IndexError):
        return None
    return height if np.isfinite(height) else None


def modality_of(term: str) -> str:
    """The standard's terms of plain radiography become "X-ray", all others stay as they are."""
    return "X-ray" if term in ("CR", "DX", "DR", "RG") else term
