"""DICOM files to 8-bit gray: CT through a lung window, X-rays through the window they bring.

Standard: DICOM PS3.3, C.7.6.2 (orientation), C.11.1 and C.11.2 (modality and VOI lookup tables),
C.11.6 (presentation lookup table).
"""

import contextlib
import dataclasses
import io
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxcovid.data import dicom_pixels as pixels
from jaxcovid.data.decoding import (
    LUNG_WINDOW,
    MAX_BYTES,
    ImageError,
    is_dicom,
    through_window,
)
from jaxcovid.data.dicom_pixels import name_of, number
from jaxcovid.data.dicom_warnings import counted_warnings, quiet, reading

__all__ = [
    "Frames",
    "Header",
    "counted_warnings",
    "header_of",
    "is_placeholder",
    "modality_of",
    "open_frames",
    "read",
]

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
    """

    modality: str
    patient: str
    series: str
    frames: int = 1
    left_out: str = ""
    study: str = ""


# What stands in the place of a PatientID that was taken out.
_NOBODY = re.compile(
    r"anon\w*|unknown|none|null|n/?a|no ?id|patient|test|[0x*?._ -]*", re.IGNORECASE
)


def is_placeholder(patient: str) -> bool:
    """True of a PatientID that stands for nobody, put in the place of one that was taken out."""
    return bool(_NOBODY.fullmatch(patient.strip()))


def header_of(path: pathlib.Path) -> Header | None:
    """The header of a DICOM file; None of another file, or one that cannot be read."""
    with path.open("rb") as file:
        if not is_dicom(file.read(1024)) or path.stat().st_size > MAX_BYTES:
            return None
        try:
            with reading(path):
                quiet()
                dataset, has_pixels = pixels.parse_header(file)
                frames = max(1, int(number(dataset, "NumberOfFrames") or 1))
                return Header(
                    modality=modality_of(str(dataset.get("Modality") or "")),
                    patient=str(dataset.get("PatientID") or ""),
                    series=str(dataset.get("SeriesInstanceUID") or ""),
                    frames=frames,
                    left_out=_left_out(dataset, has_pixels, frames),
                    study=str(dataset.get("StudyInstanceUID") or ""),
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
            pixels.macro(dataset, "CTImageFrameTypeSequence", index).get("FrameType") or []
        )
        if terms & _SCOUTS:
            return "scouts (localizers)"
        if not _is_axial(pixels.macro(dataset, "PlaneOrientationSequence", index)):
            return "slices that are not axial"
    return ""


def _is_axial(dataset: Any) -> bool:
    """True of a slice within 45 degrees of axial, or of an unknown orientation."""
    normal = normal_of(dataset)
    return normal is None or bool(abs(normal[2]) >= _AXIAL)


def normal_of(dataset: Any) -> np.ndarray | None:
    """The unit normal of a slice (x to the left, y to the back, z to the head); None if unknown."""
    try:
        row, column = np.array(dataset.get("ImageOrientationPatient"), float).reshape(2, 3)
    except (TypeError, ValueError):  # missing, or no six numbers
        return None
    normal = np.cross(row, column)
    length = np.linalg.norm(normal)
    return normal / length if np.isfinite(length) and length > 0.1 else None


def modality_of(term: str) -> str:
    """The standard's terms of plain radiography become "X-ray", all others stay as they are."""
    return "X-ray" if term in ("CR", "DX", "DR", "RG") else term


def read(
    data: bytes, *, modality: str = "", window: tuple[float, float] = LUNG_WINDOW
) -> np.ndarray:
    """Reads one slice or film: gray, uint8 [h, w], 0 black to 255 white.

    A CT's values become Hounsfield units by its rescale slope and intercept or its lookup table of
    type HU, and those of the window become 0 to 255.

    An X-ray's go through its VOI table, else through the first of its VOI windows (linear, exactly
    linear or sigmoid), and what is left of their range becomes 0 to 255. Without either, the range
    is that of the film without outliers such as burnt-in markers: values farther below the 2nd or
    above the 98th percentile than these two are apart are clipped, so that a film without such
    values keeps all of its range. It is inverted if low values are white (MONOCHROME1, or a
    presentation table of shape INVERSE).

    Padding (PixelPaddingValue, PixelPaddingRangeLimit) takes no part in this and is black. An
    enhanced CT's values are taken from its functional groups.

    Args:
      data: the bytes of the file.
      modality: "CT" or "X-ray" to refuse all others; empty takes any.
      window: centre and width in Hounsfield units, for CT.

    Raises:
      ImageError: another modality, no pixels, too many or too few of them, colours, several frames
        (see `volumes`), a compression that cannot be read, an element that is missing or bad (the
        message names it), or a CT without its rescale values. The size is read from the header,
        and of compressed pixels from their own, before any pixel is decoded.
    """
    frames = open_frames(data, modality=modality)
    if len(frames) > 1:
        raise ImageError(
            f"a DICOM file of {len(frames)} frames is no single image; it is read as a volume"
        )
    return frames.gray(0, window)


@dataclasses.dataclass(frozen=True)
class Frames:
    """The frames of one DICOM file, in the order of the file.

    Attributes:
      dataset: of pydicom, without its pixels.
      modality: as in `Header`.
    """

    dataset: Any
    modality: str
    encoded: list[bytes] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.encoded)

    def gray(self, index: int, window: tuple[float, float] = LUNG_WINDOW) -> np.ndarray:
        """One frame, uint8 [h, w]; see `read`."""
        quiet()
        with _damage_named():
            stored = pixels.decode(self.dataset, self.encoded[index])
            show = _ct_gray if self.modality == "CT" else _film_gray
            gray = show(self.dataset, stored, index, window)
            gray[stored.padding] = 0
            return gray


def open_frames(data: bytes, *, modality: str = "") -> Frames:
    """Opens a DICOM file of one or more frames, and checks its header.

    Args:
      data: the bytes of the file.
      modality: as in `read`.

    Raises:
      ImageError: as `read`.
    """
    quiet()
    with _damage_named():
        dataset = pixels.parse(io.BytesIO(data))
        kind = modality_of(str(dataset.get("Modality") or ""))
        if "DirectoryRecordSequence" in dataset:
            raise ImageError("a DICOMDIR, the list of a medium's files; give those files")
        if modality and kind != modality:
            raise ImageError(
                f"a DICOM file of modality {kind or 'unknown'}, where {modality} is meant"
            )
        if "PixelData" not in dataset:
            raise ImageError(f"a DICOM file of modality {kind or 'unknown'} without pixels")
        encoded = pixels.split_frames(dataset, pixels.check_pixels(dataset))
        dataset["PixelData"].value = b""
        return Frames(dataset, kind, encoded)


@contextlib.contextmanager
def _damage_named() -> Iterator[None]:
    """Turns whatever a parser meets in a damaged file into an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())
        raise ImageError(
            f"the DICOM header is damaged ({message}); export the file again"
        ) from error


def _ct_gray(
    dataset: Any, stored: pixels.Stored, index: int, window: tuple[float, float]
) -> np.ndarray:
    """A CT slice through the window; padding is not black yet."""
    hounsfield = _rescaled(dataset, stored.values, index, ct=True)
    if not np.isfinite(hounsfield).all():
        raise ImageError("the DICOM file's rescale values make no finite Hounsfield units")
    return through_window(hounsfield, window)


def _film_gray(
    dataset: Any, stored: pixels.Stored, index: int, window: tuple[float, float]
) -> np.ndarray:
    """A film through its own window; padding is not black yet."""
    values = _rescaled(dataset, stored.values, index, ct=False)
    shown, windowed = _through_own_window(dataset, values, index)
    picture = shown[~stored.padding]
    if not picture.size:
        return np.zeros(shown.shape, np.uint8)
    low, high = float(picture.min()), float(picture.max())
    if not windowed:
        at_2, at_98 = np.percentile(picture, [2, 98])
        if (span := at_98 - at_2) > 0:
            kept = picture[(picture >= at_2 - span) & (picture <= at_98 + span)]
            low, high = float(kept.min()), float(kept.max())
    if not np.isfinite([low, high]).all():
        raise ImageError("the DICOM file's rescale values or window are no usable numbers")
    middle, width = (low + high) / 2, max(high - low, 1e-9)
    inverted = (
        dataset.PhotometricInterpretation == "MONOCHROME1"
        or dataset.get("PresentationLUTShape") == "INVERSE"
    )
    return through_window(-shown if inverted else shown, (-middle if inverted else middle, width))


def _rescaled(dataset: Any, values: np.ndarray, index: int, *, ct: bool) -> np.ndarray:
    """Stored values to Hounsfield units, or to whatever a film's window is meant for.

    Raises:
      ImageError: one of slope and intercept is there without the other, or of CT both are missing.
    """
    if tables := dataset.get("ModalityLUTSequence"):
        kind = str(tables[0].get("ModalityLUTType") or "")
        if ct and kind != "HU":
            raise ImageError(
                f"the DICOM element {name_of('ModalityLUTType')} is {kind!r}, so the units of this "
                "CT slice are unknown; export it with RescaleSlope and RescaleIntercept"
            )
        return _look_up(tables[0], values, signed=ct)
    group = pixels.macro(dataset, "PixelValueTransformationSequence", index)
    slope, intercept = number(group, "RescaleSlope"), number(group, "RescaleIntercept")
    missing = [
        name_of(keyword)
        for keyword, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept))
        if value is None
    ]
    if len(missing) == 1 or (missing and ct):
        raise ImageError(
            f"without the DICOM element {' and '.join(missing)} (missing or empty) the values have "
            "no known units; export the file with rescale slope and intercept"
        )
    if missing:
        return values
    if slope == 0:
        raise ImageError(f"the DICOM element {name_of('RescaleSlope')} is 0; export the file again")
    return values * slope + intercept


def _look_up(item: Any, values: np.ndarray, *, signed: bool) -> np.ndarray:
    """Values through a table of PS3.3, C.11.1; its ends hold for all beyond them.

    Args:
      item: of a sequence of tables.
      values: of any shape.
      signed: entries of 16 bits are in two's complement, as Hounsfield units are.

    Raises:
      ImageError: the table is incomplete.
    """
    descriptor, entries = item.get("LUTDescriptor"), item.get("LUTData")
    if not descriptor or len(descriptor) != 3 or entries is None:
        raise ImageError(
            f"the DICOM element {name_of('LUTDescriptor')} or {name_of('LUTData')} is missing or "
            "incomplete; export the file again"
        )
    count, first = int(descriptor[0]) or 2**16, int(descriptor[1])
    if isinstance(entries, bytes):
        entries = np.frombuffer(entries, np.uint8 if len(entries) < 2 * count else "<u2")
    table = np.atleast_1d(np.array(entries, np.int64))[:count]
    if len(table) < count:
        raise ImageError(
            f"the DICOM element {name_of('LUTData')} has {len(table):,} of {count:,} entries; "
            "export the file again"
        )
    if signed:
        table = np.where(table >= 2**15, table - 2**16, table)
    return table[np.clip(np.rint(values).astype(np.int64) - first, 0, count - 1)]


def _through_own_window(dataset: Any, values: np.ndarray, index: int) -> tuple[np.ndarray, bool]:
    """A film's values through its VOI table or window, and whether it has one (PS3.3, C.11.2).

    Raises:
      ImageError: the first window that has both centre and width is none.
    """
    if tables := dataset.get("VOILUTSequence"):
        return _look_up(tables[0], values, signed=False), True
    group = pixels.macro(dataset, "FrameVOILUTSequence", index)
    centre = number(group, "WindowCenter", several=True)
    width = number(group, "WindowWidth", several=True)
    if centre is None and width is None:
        return values.astype(np.float64), False
    function = str(group.get("VOILUTFunction") or "LINEAR").upper()
    least = 1 if function == "LINEAR" else 0
    if centre is None or width is None or not width >= least or width == 0:
        raise ImageError(
            f"the DICOM elements {name_of('WindowCenter')} {centre} and {name_of('WindowWidth')} "
            f"{width} are no window; correct or delete both, then the film's own range is taken"
        )
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))), True
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        raise ImageError(
            f"the DICOM element {name_of('VOILUTFunction')} is {function[:40]!r}, none of LINEAR, "
            "LINEAR_EXACT and SIGMOID; export the file again"
        )
    if width == 0:  # of 1, a threshold
        return (values > centre).astype(np.float64), True
    return np.clip((values - centre) / width + 0.5, 0, 1), True
