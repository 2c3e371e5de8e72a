"""Images cropped to the lungs, or filled outside of them, before the five steps.

A network marks the lungs on its own input; the pixels come here packed to bits. Where the marked
area is no plausible lung the whole image is shown, so that every image gets a score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np

from jaxcovid.data.datasets import Record
from jaxcovid.data.preprocessing import Preprocessing

USES = ("crop", "mask", "crop_and_mask")
_MARGIN = 0.05  # of the sides of the bounding box, around it
_DILATION = 0.03  # of the side of the marking network's input, around the hulls
_LEAST_PART = 0.005  # of the input; a smaller connected part is a speck
_PLAUSIBLE = (0.03, 0.95)  # share of the input that lungs cover


def check_use(use: str) -> None:
    """Refuses a use that does not exist.

    Raises:
      ValueError: naming those that do.
    """
    if use not in USES:
        raise ValueError(f"lungs.use is {use!r}; use one of {', '.join(USES)}")


@dataclass(frozen=True)
class View:
    """What a network is shown of one image.

    Attributes:
      shape: height and width of the image.
      box: rows and columns that are shown.
      inside: bool [h, w], what of the image is not filled; None fills nothing.
      fill: gray value outside of `inside`.
      has_lungs: False of an image that is shown whole, because nothing tells its lungs.
    """

    shape: tuple[int, int]
    box: tuple[slice, slice]
    inside: np.ndarray | None = None
    fill: int = 0
    has_lungs: bool = True

    @classmethod
    def whole(cls, shape: tuple[int, int]) -> "View":
        """That of an image of some height and width which is shown as it is."""
        return cls(shape, (slice(0, shape[0]), slice(0, shape[1])), has_lungs=False)

    def __call__(self, gray: np.ndarray) -> np.ndarray:
        """What is shown of the image uint8 [h, w]: uint8 [box]."""
        if self.inside is not None:
            gray = np.where(self.inside, gray, np.uint8(self.fill))
        return np.ascontiguousarray(gray[self.box])

    def cut(self, rating: np.ndarray) -> np.ndarray:
        """The part in the box of a map float [any, any] over the whole image."""
        if self.box == View.whole(self.shape).box:
            return rating
        height, width = self.shape
        return cv2.resize(rating.astype(np.float32), (width, height))[self.box]

    def restore(self, result: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
        """What a network says of each pixel of its input, on the whole image.

        Args:
          result: float32 [size, size, c].
          preprocessing: that led from what is shown to the input.

        Returns:
          float32 [h, w, c], 0 outside of the box.
        """
        rows, columns = self.box
        image = np.zeros((*self.shape, result.shape[-1]), result.dtype)
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        image[self.box] = preprocessing.restore(result, shape)
        return image

    def restore_heatmap(self, heatmap: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
        """A heatmap float32 [any, any] in 0 to 1 of an input, as one of the whole image.

        Returns:
          float32 [size, size] in 0 to 1, which covers the image; see `restore`.
        """
        size = (preprocessing.size, preprocessing.size)
        large = cv2.resize(heatmap, size, interpolation=cv2.INTER_CUBIC).clip(0, 1)
        image = self.restore(large[..., np.newaxis], preprocessing)
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA).clip(0, 1)


@dataclass(frozen=True)
class LungFocus:
    """What is shown of images whose lungs are marked.

    Attributes:
      use: `crop` to the bounding box of the lungs and a margin; `mask` all but the convex hull of
        each lung and a margin; or `crop_and_mask`.
      fill: gray value of what is masked, 0 to 255.
      marked: the five steps of the network that marks lungs, whose input the marks cover.

    Raises:
      ValueError: an unknown use.
    """

    use: str
    fill: int
    marked: Preprocessing

    def __post_init__(self) -> None:
        check_use(self.use)

    def clean(self, bits: np.ndarray) -> np.ndarray:
        """Marks without specks; all 0 if what is left is no plausible lung.

        Args:
          bits: uint8 [size * size / 8, rounded up].
        """
        mask = self._unpack(bits)
        count, parts, stats, _ = cv2.connectedComponentsWithStats(mask)
        large = stats[:, cv2.CC_STAT_AREA] >= _LEAST_PART * mask.size
        large[0] = False  # the background
        mask = large[parts] if count > 1 else mask > 0
        low, high = _PLAUSIBLE
        return np.packbits(mask & (low <= mask.mean() <= high))

    def view(self, shape: tuple[int, int], bits: np.ndarray) -> View:
        """What is shown of an image of some height and width.

        Args:
          shape: of the image.
          bits: see `clean`, which made them.
        """
        mask = self._unpack(bits)
        if not mask.any():
            return View.whole(shape)
        box = View.whole(shape).box
        if self.use != "mask":
            box = _box_around(self._enlarge(mask, shape))
        if self.use == "crop":
            return View(shape, box)
        return View(shape, box, self._enlarge(self._filled(mask), shape), self.fill)

    def _filled(self, mask: np.ndarray) -> np.ndarray:
        """The convex hull of each part of uint8 [size, size], and a little around it.

        Lung that is dense with disease is often not marked: it stays.
        """
        filled = np.zeros_like(mask)
        for outline in cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]:
            cv2.fillConvexPoly(filled, cv2.convexHull(outline), 1)
        side = 2 * round(_DILATION * self.marked.size) + 1
        return cv2.dilate(filled, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))

    def _unpack(self, bits: np.ndarray) -> np.ndarray:
        """The marks as 0 or 1, uint8 [size, size]."""
        size = self.marked.size
        return np.unpackbits(bits, count=size * size).reshape(size, size)

    def _enlarge(self, mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Marks uint8 [size, size] on the image, bool [h, w]."""
        return self.marked.restore(255 * mask[..., np.newaxis], shape)[..., 0] > 127


def _box_around(inside: np.ndarray) -> tuple[slice, slice]:
    """The bounding box of bool [h, w] with its margin, as rows and columns; all if it is empty."""
    sides = []
    for axis, length in enumerate(inside.shape):
        places = np.flatnonzero(inside.any(axis=1 - axis))
        first, last = (places[0], places[-1] + 1) if len(places) else (0, length)
        margin = round(_MARGIN * (last - first))
        sides.append(slice(max(0, int(first) - margin), min(length, int(last) + margin)))
    return sides[0], sides[1]


@dataclass(frozen=True, eq=False)
class FocusedSource(Sequence[Any]):
    """Records with `shown`, a function from the height and width of the image to its `View`.

    Not `view`, which in data sets of films is the projection.

    Attributes:
      source: the records.
      focus: what is shown of them.
      bits: of each record, see `LungFocus.clean`: uint8 [n, size * size / 8].
    """

    source: Sequence[Record]
    focus: LungFocus
    bits: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Record:
        view = partial(self.focus.view, bits=self.bits[index])
        return {**self.source[index], "shown": view}

    @property
    def without_lungs(self) -> int:
        """How many images are shown whole, because no lungs were found."""
        return int((~self.bits.any(axis=1)).sum())


def show(
    record: Record, gray: np.ndarray, masks: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """What is shown of the image of a record, all of it unless the record has `shown`.

    Args:
      record: see `FocusedSource`.
      gray: its image, altered by an ablation if there is one, uint8 [h, w].
      masks: uint8 [h, w, c], which are cut as the image is; None if there are none.
    """
    if "shown" not in record:
        return gray, masks
    view = record["shown"](gray.shape)
    return view(gray), None if masks is None else np.ascontiguousarray(masks[view.box])
