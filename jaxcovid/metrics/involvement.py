"""How much of the lungs a lesion covers, how severe that is, and where in the lungs it lies.

    slices = [measure_slice(lungs, lesion) for lungs, lesion in masks]  # from the feet to the head
    volume = stack(slices)
    print(involvement(slices[0]), involvement(volume), involvement(pool([volume, another])))

All is pooled: the share of a volume or a patient is its lesion's area over its lungs' area, not a
mean of slices. Masks are in the radiological view: row 0 is the front of the body and column 0 the
patient's right. Everything is read from the geometry of the masks; no lobes are segmented.

"Lungs" below means lungs or lesion, since a network (or a person) may leave consolidated lung out
of the mask of the lungs. A slice without any lung counts for nothing, whatever lesion it has.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from jaxcovid.metrics.mask_geometry import label_components, without_specks

# What is no involvement: less than this share of the lungs, or fewer pixels. Outlines of the same
# lesion differ by single pixels along vessels and the pleura, and such pixels are no disease: 0.1 %
# of a slice of 15,000 lung pixels is 15. At the apex it is less than a pixel, hence the second.
LEAST_SHARE = 0.001
LEAST_PX = 5

# MosMedData (Morozov et al. 2020, arXiv:2005.06465): none, below 25, 50, 75 %, and above.
GRADES = ("CT-0", "CT-1", "CT-2", "CT-3", "CT-4")
_GRADE_LIMITS = (0.25, 0.5, 0.75)

_OUTER = 1 / 3  # of the distance from the edge of a lung to its innermost pixel is periphery
_SECOND_LUNG = 0.25  # of the area of the larger lung, at least
_APART = 0.25  # between the centroids of two lungs, at least, as a share of the width of both
_CROSSES = 0.2  # of a component on each side of the midline, at least, is two lungs in one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Areas:
    """Pixels of one slice, or pooled over several.

    Attributes:
      lungs: of lungs or lesion.
      lesion: of the lesion, as the following but those of the lungs' sides.
      right_lung: of the lungs, on the patient's right.
      right: on the patient's right.
      left_lung: of the lungs, on the patient's left.
      left: on the patient's left.
      peripheral: in the outer third of a lung.
      dorsal: in the back half of the lungs.
      lower: in the half of a volume towards the feet; None where there is no order of slices.
    """

    lungs: int = 0
    lesion: int = 0
    right_lung: int = 0
    right: int = 0
    left_lung: int = 0
    left: int = 0
    peripheral: int = 0
    dorsal: int = 0
    lower: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Involvement:
    """How much of the lungs is involved, and where.

    Attributes:
      share: of the lungs' area, 0 to 1; 0 without lungs.
      grade: "CT-0" to "CT-4", see `grade_of`.
      right: share of the lung on the patient's right; NaN if it is not seen.
      left: share of the lung on the patient's left; NaN if it is not seen.
      bilateral: True if both lungs are involved.
      peripheral: share of the lesion in the outer third of a lung; NaN without lesion. Of a lung
        with the outline of an ellipse the outer third is 5/9.
      dorsal: share of the lesion in the back half of the lungs; NaN without lesion.
      lower: share of the lesion in the lower half of the lungs, of a volume; NaN without lesion.
    """

    share: float
    grade: str
    right: float
    left: float
    bilateral: bool
    peripheral: float
    dorsal: float
    lower: float | None = None


def measure_slice(lungs: np.ndarray, lesion: np.ndarray, *, least_px: int = 0) -> Areas:
    """The areas of one slice.

    Right and left: the midline lies between the centroids of the two largest components of the
    lungs; where there are no two that lie apart, in the middle of the image. A component belongs to
    the side that most of it lies on; only one with a fifth or more on both sides (lungs that touch)
    is divided.

    Outer third: the distance of a pixel's centre to the edge of the lungs is at most a third of the
    largest such distance on its side. The edge towards the mediastinum counts as any other.

    Back half: below the middle of the rows that the lungs extend over in this slice.

    Args:
      lungs: bool [h, w], in the radiological view.
      lesion: bool [h, w].
      least_px: components of either mask with fewer pixels are left out.

    Raises:
      ValueError: masks that are not bool, or differ in shape.
    """
    from scipy import ndimage  # screening imports this file and need not segment

    if {lungs.dtype, lesion.dtype} != {np.dtype(bool)} or lungs.shape != lesion.shape:
        raise ValueError(
            f"masks are {lungs.dtype} {lungs.shape} and {lesion.dtype} {lesion.shape}; give bool "
            "[h, w] of one shape"
        )
    lungs, lesion = (without_specks(mask, least_px) for mask in (lungs, lesion))
    if not lungs.any():
        return Areas()
    width = lungs.shape[1]
    (box,) = ndimage.find_objects((lungs | lesion).astype(np.uint8))
    lungs, lesion = (lungs | lesion)[box], lesion[box]
    right = _right_side(lungs, middle=width / 2 - box[1].start)
    height = len(lungs)
    return Areas(
        lungs=int(lungs.sum()),
        lesion=int(lesion.sum()),
        right_lung=int((lungs & right).sum()),
        right=int((lesion & right).sum()),
        left_lung=int((lungs & ~right).sum()),
        left=int((lesion & ~right).sum()),
        peripheral=int((lesion & _periphery(lungs, right)).sum()),
        dorsal=int(lesion[(height + 1) // 2 :].sum()),
    )


def pool(areas: Iterable[Areas]) -> Areas:
    """Adds areas up: of the slices of a patient, or of several volumes.

    `lower` stays None unless all have it.
    """
    areas = list(areas)
    names = [field.name for field in dataclasses.fields(Areas) if field.name != "lower"]
    lower = [each.lower for each in areas if each.lower is not None]
    return Areas(
        **{name: sum(getattr(each, name) for each in areas) for name in names},
        lower=sum(lower) if areas and len(lower) == len(areas) else None,
    )


def stack(slices: Sequence[Areas]) -> Areas:
    """Adds up all slices of a volume, in their order from the feet to the head.

    The lower half ends in the middle between the first and the last slice with lungs. If that is a
    slice, it is not of the lower half.
    """
    with_lungs = [index for index, each in enumerate(slices) if each.lungs]
    lower = 0
    if with_lungs:
        first, last = with_lungs[0], with_lungs[-1]
        lower = sum(each.lesion for each in slices[first : first + (last - first + 1) // 2])
    return dataclasses.replace(pool(slices), lower=lower)


def involvement(areas: Areas) -> Involvement:
    """What areas say of a slice, a volume or a patient."""
    sides = ((areas.right, areas.right_lung), (areas.left, areas.left_lung))
    return Involvement(
        share=areas.lesion / areas.lungs if areas.lungs else 0.0,
        grade=grade_of(areas.lesion, areas.lungs),
        right=_share(*sides[0]),
        left=_share(*sides[1]),
        bilateral=all(grade_of(*side) != GRADES[0] for side in sides),
        peripheral=_share(areas.peripheral, areas.lesion),
        dorsal=_share(areas.dorsal, areas.lesion),
        lower=None if areas.lower is None else _share(areas.lower, areas.lesion),
    )


def grade_of(lesion: int, lungs: int) -> str:
    """The grade of severity by the share of the lungs that is involved.

    Args:
      lesion: pixels of the lesion.
      lungs: pixels of the lungs or lesion.

    Returns:
      "CT-0" below `LEAST_SHARE` or `LEAST_PX`, else "CT-1" below 25 %, "CT-2" below 50 %, "CT-3"
      below 75 % and "CT-4" from there on.
    """
    if lesion < max(LEAST_PX, LEAST_SHARE * lungs):
        return GRADES[0]
    return GRADES[1 + int(np.digitize(lesion / lungs, _GRADE_LIMITS))]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _right_side(lungs: np.ndarray, *, middle: float) -> np.ndarray:
    """Where the patient's right is, bool [h, w]; see `measure_slice`.

    Args:
      lungs: bool [h, w].
      middle: column of the middle of the image, from the left edge of column 0.
    """
    labels, sizes = label_components(lungs)
    width = lungs.shape[1]
    cells = (labels * width + np.arange(width)).ravel()
    in_column = np.bincount(cells, minlength=(sizes.size + 1) * width).reshape(-1, width)[1:]
    columns = np.arange(width) + 0.5
    centroids = in_column @ columns / sizes
    largest = np.argsort(-sizes, kind="stable")[:2]
    two = largest.size == 2 and sizes[largest[1]] >= _SECOND_LUNG * sizes[largest[0]]
    if two and np.ptp(centroids[largest]) >= _APART * width:
        middle = float(centroids[largest].mean())
    share = in_column[:, columns < middle].sum(axis=1) / sizes
    # Of label 0, the outside, nothing is asked.
    whole = np.concatenate([[False], (share < _CROSSES) | (share > 1 - _CROSSES)])
    mostly = np.concatenate([[False], share > 0.5])
    return np.where(whole[labels], mostly[labels], columns < middle)


def _periphery(lungs: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The outer third of each lung, bool [h, w]; see `measure_slice`."""
    from scipy import ndimage

    # To the nearest centre outside, which lies half a pixel beyond the edge.
    depth = ndimage.distance_transform_edt(np.pad(lungs, 1))[1:-1, 1:-1] - 0.5
    outer = np.zeros(lungs.shape, bool)
    for side in (lungs & right, lungs & ~right):
        outer |= side & (depth <= _OUTER * np.max(depth, initial=0.0, where=side))
    return outer
