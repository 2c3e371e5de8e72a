"""Hounsfield units of CT: which values can be some, and the window through which they are seen."""

import cv2
import numpy as np

from jaxcovid.data.image_error import ImageError

# Centre and width of the lung window, Hounsfield units.
LUNG_WINDOW = (-600.0, 1500.0)

# The least that any slice of a chest has; lung is at -900 to -500, the air around at -1000.
_LUNG_AT_MOST = -500


def through_window(hounsfield: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Maps Hounsfield units to uint8 of the same shape: the window's edges to 0 and 255."""
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
