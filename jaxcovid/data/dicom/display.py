"""Stored values of DICOM to gray: CT through a lung window, X-rays through the window they bring.

Standard: DICOM PS3.3, C.11.1 and C.11.2 (modality and VOI lookup tables), C.11.6 (presentation
lookup table).
"""

from typing import Any

import numpy as np

from jaxcovid.data.dicom.elements import macro, name_of, number
from jaxcovid.data.dicom.pixels import Stored
from jaxcovid.data.hounsfield import through_window
from jaxcovid.data.image_error import ImageError


def ct_gray(dataset: Any, stored: Stored, index: int, window: tuple[float, float]) -> np.ndarray:
    """Shows a CT slice through the window; padding is not black yet."""
    hounsfield = _rescaled(dataset, stored.values, index, ct=True)
    if not np.isfinite(hounsfield).all():
        raise ImageError("the DICOM file's rescale values make no finite Hounsfield units")
    return through_window(hounsfield, window)


def film_gray(dataset: Any, stored: Stored, index: int, window: tuple[float, float]) -> np.ndarray:
    """Shows a film through its own window; padding is not black yet."""
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
    """Maps stored values to Hounsfield units, or to whatever a film's window is meant for.

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
    group = macro(dataset, "PixelValueTransformationSequence", index)
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
    """Maps values through a table of PS3.3, C.11.1; its ends hold for all beyond them.

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
    group = macro(dataset, "FrameVOILUTSequence", index)
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
