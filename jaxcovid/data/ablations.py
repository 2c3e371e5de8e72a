"""Ablations of images: they lack what should matter, or have what should not.

A network that still finds the disease with the lungs blacked out looks at something else (Maguolo &
Nanni 2020, arXiv:2004.12823).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from jaxcovid.data.masks import decode_mask

_EDGE = 0.15  # share of a side that is border, on each side
_BRIGHTER = 30  # gray levels of 255
ABLATIONS = (
    "border_only",
    "centre_only",
    "lungs_only",
    "thumbnail",
    "flipped",
    "brighter",
    "darker",
)
# What a run can be trained on; shuffled labels alter no image (see `labels.shuffled`).
TRAINED = ("none", "border_only", "centre_only", "thumbnail", "shuffled_labels")


@dataclass(frozen=True)
class Ablation:
    """Alters an image before the five steps; pickles, so that workers can use it.

    Attributes:
      name: `border_only` (the middle 70 % of each side black), `centre_only` (the rest black),
        `lungs_only` (all but the record's lung mask black), `thumbnail` (shrunk to 16x16 and
        enlarged again), `flipped` (left and right), `brighter` and `darker` (by 30 of 255).

    Raises:
      ValueError: an unknown name.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in ABLATIONS:
            raise ValueError(f"ablation is {self.name!r}; use one of {', '.join(ABLATIONS)}")

    def __call__(self, gray: np.ndarray, record: Mapping[str, Any]) -> np.ndarray:
        """The altered image uint8 [h, w] of a record's image uint8 [h, w]."""
        height, width = gray.shape
        if self.name in ("border_only", "centre_only"):
            top, left = round(_EDGE * height), round(_EDGE * width)
            centre = np.zeros(gray.shape, bool)
            centre[top : height - top, left : width - left] = True
            return np.where(centre == (self.name == "centre_only"), gray, 0).astype(np.uint8)
        if self.name == "lungs_only":
            return np.where(decode_mask(record, "lungs"), gray, 0).astype(np.uint8)
        if self.name == "thumbnail":
            small = cv2.resize(gray, (16, 16), interpolation=cv2.INTER_AREA)
            return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        if self.name == "flipped":
            return np.ascontiguousarray(gray[:, ::-1])
        shift = _BRIGHTER if self.name == "brighter" else -_BRIGHTER
        return np.clip(gray.astype(np.int16) + shift, 0, 255).astype(np.uint8)


def trained_ablation(name: str) -> Ablation | None:
    """What alters the images of a run whose option `ablation` is this; None if nothing does.

    Raises:
      ValueError: it is not one of `TRAINED`.
    """
    if name not in TRAINED:
        raise ValueError(f"ablation is {name!r}; use one of {', '.join(TRAINED)}")
    return Ablation(name) if name in ABLATIONS else None


def mass_inside(heatmap: np.ndarray, mask: np.ndarray) -> float:
    """Share of a heatmap's mass inside a mask; NaN of a heatmap that is 0.

    Args:
      heatmap: float [any, any] in [0, 1].
      mask: bool [h, w].
    """
    height, width = mask.shape
    large = cv2.resize(heatmap.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    total = float(large.sum())
    return float(large[mask].sum()) / total if total else float("nan")
