"""How well predicted masks match true ones, with intervals over volumes.

    comparison = MaskComparison()
    for case, truth, predicted in slices:  # bool [h, w]; no mask is kept
        comparison.add(case, truth, predicted)
    scores = comparison.scores()

Definitions, for the masks of one structure (lungs, or lesion):

- Dice: 2 |both| / (|truth| + |predicted|), pooled over the pixels of a volume. 0 where one of the
  two is empty; NaN, left out of the mean and counted, where both are.
- Hausdorff distance, 95 %: the larger of the two directed 95th percentiles of the distances between
  the surfaces, see `hausdorff_95`. In 3-D where the spacing of the slices is given, else in 2-D, as
  the mean over the slices of a volume that have both masks. Slices (volumes in 3-D) with one of the
  two alone have no distance and are counted: read the distance beside their number.
- Volume error: (|predicted| - |truth|) / |truth|; NaN without truth.
- Sensitivity per lesion: a lesion is a connected component of the truth (neighbours share at least
  a corner) of at least `least_px` pixels; it is detected if at least a share `least_cover` of it is
  predicted. Pooled over all lesions.
- False positives per slice: components of the prediction of at least `least_px` pixels that touch
  no pixel of the truth.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxcovid.metrics.interval import IntervalMethod, Score
from jaxcovid.metrics.mask_geometry import components, hausdorff_95
from jaxcovid.metrics.ratios import METHOD, Scale, mean_interval, ratio_interval


@dataclasses.dataclass(frozen=True, kw_only=True)
class VolumeScores:
    """The figures of one volume; see the module's docstring.

    Attributes:
      slices: that were compared.
      truth: pixels of the true mask.
      predicted: pixels of the predicted mask.
      dice: 0 to 1; NaN if both masks are empty.
      hausdorff: 95 %, in px or mm; NaN if there is none.
      without_distance: slices (in 3-D: 1 for the volume) where only one of the masks is empty.
      volume_error: signed, 0 is none; NaN without truth.
      lesions: that count.
      detected: of them.
      false_positives: predicted components that touch no truth.
    """

    slices: int
    truth: int
    predicted: int
    dice: float
    hausdorff: float
    without_distance: int
    volume_error: float
    lesions: int
    detected: int
    false_positives: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationScores:
    """Means over volumes, each volume counting alike, with 95 % intervals over volumes.

    Attributes:
      n: slices.
      n_volumes: volumes.
      dice: mean over the volumes where a mask is not empty.
      both_empty: volumes where both are, left out of Dice.
      hausdorff: mean over the volumes that have a distance.
      hausdorff_unit: "px" or "mm".
      hausdorff_dimensions: 2 or 3.
      without_distance: slices (volumes in 3-D) where only one of the masks is empty.
      volume_error: mean of the signed relative error of volumes with truth.
      absolute_volume_error: mean of its size.
      without_truth: volumes left out of both.
      lesion_sensitivity: share of all lesions that are detected.
      n_lesions: lesions that count.
      false_positives_per_slice: over all slices.
      least_px: pixels of the smallest component that counts.
      least_cover: share of a lesion that must be predicted.
      volumes: of each volume.
      intervals: how they were computed.
    """

    n: int
    n_volumes: int
    dice: Score
    both_empty: int
    hausdorff: Score
    hausdorff_unit: str
    hausdorff_dimensions: int
    without_distance: int
    volume_error: Score
    absolute_volume_error: Score
    without_truth: int
    lesion_sensitivity: Score
    n_lesions: int
    false_positives_per_slice: Score
    least_px: int
    least_cover: float
    volumes: Mapping[str, VolumeScores]
    intervals: IntervalMethod


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Counts:
    """What adds up over the slices of a volume."""

    slices: int
    truth: int
    predicted: int
    both: int
    distance: float
    distances: int
    without_distance: int
    lesions: int
    detected: int
    false_positives: int

    def __add__(self, other: "_Counts") -> "_Counts":
        names = [field.name for field in dataclasses.fields(self)]
        return _Counts(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def scores(self) -> VolumeScores:
        return VolumeScores(
            slices=self.slices,
            truth=self.truth,
            predicted=self.predicted,
            dice=_over(2 * self.both, self.truth + self.predicted),
            hausdorff=_over(self.distance, self.distances),
            without_distance=self.without_distance,
            volume_error=_over(self.predicted - self.truth, self.truth),
            lesions=self.lesions,
            detected=self.detected,
            false_positives=self.false_positives,
        )


class MaskComparison:
    """Compares masks of one structure, slice by slice in any order, or volume by volume.

    Args:
      least_px: pixels of the smallest lesion, and of the smallest false positive, that counts.
      least_cover: share of a lesion, above 0 to 1, that must be predicted for it to be detected.

    Raises:
      ValueError: a value out of range.
    """

    def __init__(self, *, least_px: int = 10, least_cover: float = 0.5) -> None:
        if least_px < 1 or not 0 < least_cover <= 1:
            raise ValueError(
                f"least_px is {least_px}, least_cover {least_cover}; give at least 1 px and a "
                "share above 0, at most 1"
            )
        self._least_px, self._least_cover = least_px, least_cover
        self._volumes: dict[str, _Counts] = {}
        self._kind: tuple[int, str] | None = None  # dimensions and unit of distances

    def add(
        self,
        volume: str,
        truth: np.ndarray,
        predicted: np.ndarray,
        *,
        spacing_mm: Sequence[float] | None = None,
    ) -> None:
        """Adds one slice, or all slices of a volume.

        Args:
          volume: id of the case.
          truth: bool [h, w] or [slices, h, w].
          predicted: bool, of the same shape.
          spacing_mm: between rows and columns; between slices, rows and columns for distances in
            3-D, which needs the whole volume at once. None: distances are in px, in 2-D.

        Raises:
          ValueError: masks that are not bool or differ in shape, a spacing that does not fit, or
            other dimensions or units than before.
        """
        _check(truth, predicted, spacing_mm)
        kind = 2 if spacing_mm is None else len(spacing_mm), "px" if spacing_mm is None else "mm"
        if self._kind not in (None, kind):
            raise ValueError(
                f"distances are in {kind[0]}-D and {kind[1]} here, in {self._kind[0]}-D and "
                f"{self._kind[1]} before; their mean would say nothing, so compare these volumes "
                "apart or leave the spacing out"
            )
        if kind[0] == 3 and volume in self._volumes:
            raise ValueError(f"volume {volume!r} was added before; in 3-D add all its slices once")
        self._kind = kind
        parts = [(truth, predicted)]
        if truth.ndim > kind[0]:
            parts = list(zip(truth, predicted, strict=True))
        for part in parts:
            counts = self._compare(*part, spacing_mm or (1.0, 1.0))
            before = self._volumes.get(volume)
            self._volumes[volume] = before + counts if before else counts

    def _compare(
        self, truth: np.ndarray, predicted: np.ndarray, spacing: Sequence[float]
    ) -> _Counts:
        """The counts of one slice, bool [h, w], or of a whole volume, bool [slices, h, w]."""
        distance = hausdorff_95(truth, predicted, spacing)
        sizes, covered = components(truth, predicted)
        lesion = sizes >= self._least_px
        found, true_part = components(predicted, truth)
        return _Counts(
            slices=len(truth) if truth.ndim == 3 else 1,
            truth=int(truth.sum()),
            predicted=int(predicted.sum()),
            both=int((truth & predicted).sum()),
            distance=0.0 if np.isnan(distance) else distance,
            distances=int(not np.isnan(distance)),
            without_distance=int(truth.any() != predicted.any()),
            lesions=int(lesion.sum()),
            detected=int((lesion & (covered >= self._least_cover * sizes)).sum()),
            false_positives=int(((found >= self._least_px) & (true_part == 0)).sum()),
        )

    def scores(self, *, resamples: int = 2000, seed: int = 0) -> SegmentationScores:
        """The figures of all that was added.

        Args:
          resamples: of volumes, at least 2.
          seed: of the resamples.

        Raises:
          ValueError: nothing was added, or fewer than 2 resamples.
        """
        if self._kind is None:
            raise ValueError("no masks were added; add at least one slice")
        volumes = {name: self._volumes[name].scores() for name in sorted(self._volumes)}
        names = list(volumes)

        def column(field: str) -> np.ndarray:
            return np.array([getattr(each, field) for each in volumes.values()], float)

        def mean(values: np.ndarray, scale: Scale) -> Score:
            return mean_interval(names, values, scale=scale, resamples=resamples, seed=seed)

        def ratio(top: str, bottom: str, scale: Scale) -> Score:
            return ratio_interval(
                names, column(top), column(bottom), scale=scale, resamples=resamples, seed=seed
            )

        error = column("volume_error")
        return SegmentationScores(
            n=int(column("slices").sum()),
            n_volumes=len(volumes),
            dice=mean(column("dice"), "share"),
            both_empty=int(np.isnan(column("dice")).sum()),
            hausdorff=mean(column("hausdorff"), "positive"),
            hausdorff_unit=self._kind[1],
            hausdorff_dimensions=self._kind[0],
            without_distance=int(column("without_distance").sum()),
            volume_error=mean(error, "signed"),
            absolute_volume_error=mean(np.abs(error), "positive"),
            without_truth=int(np.isnan(error).sum()),
            lesion_sensitivity=ratio("detected", "lesions", "share"),
            n_lesions=int(column("lesions").sum()),
            false_positives_per_slice=ratio("false_positives", "slices", "positive"),
            least_px=self._least_px,
            least_cover=self._least_cover,
            volumes=volumes,
            intervals=IntervalMethod(
                METHOD.format(groups="volumes"), resamples=resamples, seed=seed
            ),
        )


def _over(top: float, bottom: float) -> float:
    return top / bottom if bottom else float("nan")


def _check(truth: np.ndarray, predicted: np.ndarray, spacing_mm: Sequence[float] | None) -> None:
    """Raises the errors of `MaskComparison.add` that a call alone can show."""
    if truth.dtype != bool or predicted.dtype != bool:
        raise ValueError(f"masks are {truth.dtype} and {predicted.dtype}; give bool")
    if truth.shape != predicted.shape or truth.ndim not in (2, 3):
        raise ValueError(
            f"masks have the shapes {truth.shape} and {predicted.shape}; both must be [h, w], or "
            "[slices, h, w]"
        )
    if spacing_mm is None:
        return
    if not 2 <= len(spacing_mm) <= truth.ndim or not all(x > 0 for x in spacing_mm):
        raise ValueError(
            f"spacing_mm is {tuple(spacing_mm)} for masks of shape {truth.shape}; give that of "
            "rows and columns, or of slices, rows and columns of a whole volume, each above 0"
        )
