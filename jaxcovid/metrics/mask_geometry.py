"""Surfaces and components of masks, of one slice [h, w] or of a volume [slices, h, w]."""

from collections.abc import Sequence

import numpy as np

_PERCENTILE = 95


def hausdorff_95(
    truth: np.ndarray, predicted: np.ndarray, spacing: Sequence[float] | None = None
) -> float:
    """The 95 % Hausdorff distance of two masks: the larger of the two directed distances.

    A directed distance is the 95th percentile of the distances from each surface pixel of one mask
    to the nearest of the other. Surface pixels have a neighbour outside, across an edge (in 3-D a
    face); what lies beyond the image is outside.

    Args:
      truth: bool [h, w] or [slices, h, w].
      predicted: bool, of the same shape.
      spacing: of the axes; None: 1 each.

    Returns:
      In the unit of the spacing; NaN if a mask is empty.
    """
    from scipy.spatial import KDTree

    if not (truth.any() and predicted.any()):
        return float("nan")
    one, two = (_surface(mask) * np.asarray(spacing or 1.0) for mask in (truth, predicted))
    directed = (KDTree(two).query(one)[0], KDTree(one).query(two)[0])
    return float(max(np.percentile(distances, _PERCENTILE) for distances in directed))


def _surface(mask: np.ndarray) -> np.ndarray:
    """Indices int [n, dimensions] of the surface pixels of a mask."""
    from scipy import ndimage

    return np.argwhere(mask & ~ndimage.binary_erosion(mask))


def label_components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The connected components of a mask; neighbours share at least a corner.

    Args:
      mask: bool [h, w] or [slices, h, w].

    Returns:
      Labels of the mask's shape, 0 outside and 1 to n inside, and the pixels of each, int [n].
    """
    from scipy import ndimage

    labels, n = ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, mask.ndim))
    return labels, np.bincount(labels.ravel(), minlength=n + 1)[1:]


def components(mask: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each component of a mask, and how many of them another mask has: two int [n]."""
    labels, sizes = label_components(mask)
    return sizes, np.bincount(labels[other], minlength=sizes.size + 1)[1:]


def without_specks(mask: np.ndarray, least_px: int) -> np.ndarray:
    """A mask without its components of fewer than `least_px` pixels."""
    if least_px <= 1:
        return mask
    labels, sizes = label_components(mask)
    return np.concatenate([[False], sizes >= least_px])[labels]
