"""What an evaluation computes: a type for each section of the report; absent sections are None."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxcovid.data.identity import Overlap
from jaxcovid.evaluation import json_form
from jaxcovid.evaluation.segmentation_result import Segmentation
from jaxcovid.metrics.calibration import Calibration
from jaxcovid.metrics.findings import FindingScores
from jaxcovid.metrics.interval import Score
from jaxcovid.metrics.predictions import Predictions
from jaxcovid.metrics.screening import InvolvementScores, ScreeningScores, UnitScores
from jaxcovid.metrics.subgroups import Subgroup


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Which network was evaluated on which data, and how to repeat it.

    Attributes:
      dataset: name of the data set that it was tested on.
      digest: SHA-256 of its records.
      citation: BibTeX, empty if there is none.
      trained_on: name of the data set of the training.
      classes: what each class of the data set counts as: itself or "the rest".
      step: of the checkpoint.
      version: of jaxcovid.
      config: of the training, nested.
      commands: that lead to the report.
    """

    dataset: str
    digest: str
    citation: str
    trained_on: str = field(metadata={"key": "trained on"})
    classes: Mapping[str, str] | None = None
    step: int
    version: str
    config: Mapping[str, Any]
    commands: Sequence[str]

    @property
    def examples(self) -> str:
        """What has one answer each: "images", or "volumes" of a network of several slices."""
        return "volumes" if self.config["volume"]["slices"] else "images"


@dataclass(frozen=True, kw_only=True)
class ExplanationScores:
    """How well maps of one kind explain the probability of the positive class.

    Attributes:
      mass: mean share of a map's mass inside the mask.
      pointing: share of the images whose highest-rated pixel is inside (the pointing game).
      deletion: mean area under the deletion curve; None where it was not measured.
      gain: how much smaller it is than in random order; None as above.
      empty: maps that are 0 everywhere and left out of all this.
    """

    mass: Score
    pointing: Score
    deletion: Score | None = None
    gain: Score | None = None
    empty: int


@dataclass(frozen=True, kw_only=True)
class Saliency:
    """Where explanations lie, and whether the probability depends on what they show.

    Attributes:
      n: images with a mask.
      masks: "lesion" or "lungs".
      area: share of the area inside the masks: `mass` and `pointing` of a map by chance.
      explanations: by name.
      n_deleted: images of the positive class whose deletion curves were measured.
      random_deletion: mean area under the deletion curves of random order; None without images.
    """

    n: int
    masks: str = field(metadata={"key": "of"})
    area: float
    explanations: Mapping[str, ExplanationScores]
    n_deleted: int
    random_deletion: Score | None = None


@dataclass(frozen=True)
class AblationScore:
    """The AUC on images that lack what should matter, or have what should not.

    Attributes:
      ablation: its name, see `data.ablations`.
      n: images that it can be applied to.
      auc: on these, altered.
      unaltered: on these as they are.
    """

    ablation: str
    n: int
    auc: Score
    unaltered: Score


@dataclass(frozen=True)
class Comparison:
    """This network against another on the same images.

    Attributes:
      name: of the other run's folder.
      auc: of the other.
      difference: AUC of this one less that of the other, patients resampled together.
      path: of the other run.
      predictions: of the other.
    """

    name: str
    auc: float
    difference: Score
    path: str = field(metadata={"json": False})
    predictions: Predictions = field(metadata={"json": False})


@dataclass(frozen=True)
class Ensemble:
    """The runs whose mean probability was evaluated.

    Attributes:
      names: of the runs' folders.
      aucs: of each run.
      mean: of the AUCs.
      deviation: their standard deviation.
      predictions: of each run.
    """

    names: Sequence[str]
    aucs: Sequence[float]
    mean: float
    deviation: float
    predictions: Sequence[Predictions] = field(metadata={"json": False})


@dataclass(frozen=True)
class AuditedCheck:
    """A check of the audit of a data set: its name, verdict, and answer in a sentence."""

    name: str
    verdict: str
    summary: str


@dataclass(frozen=True)
class AuditSummary:
    """The audit of a data set: the worst verdict and the checks."""

    verdict: str
    checks: Sequence[AuditedCheck]


@dataclass(frozen=True)
class PublishedScores:
    """A row of a table of the paper; None where the table has no number."""

    method: str
    precision: float | None
    recall: float | None
    f: float | None
    auc: float | None
    accuracy: float | None


@dataclass(frozen=True)
class PublishedTable:
    """A table of the paper: what it is, and its rows."""

    title: str
    rows: Sequence[PublishedScores]


@dataclass(frozen=True)
class Explanation:
    """An image beside the heatmap that explains its score.

    Attributes:
      image: uint8 [h, w].
      heatmap: float [any, any] in [0, 1].
      caption: over the picture.
      mask: bool [h, w], outlined; None if there is none.
      lesion: the decoder's probability of the lesion, float [h, w]; None without a decoder.
    """

    image: np.ndarray
    heatmap: np.ndarray
    caption: str
    mask: np.ndarray | None = None
    lesion: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """All that a report is made of.

    Attributes:
      split: of the data set.
      scores: of a network that screens for a class, of one for several findings, or of one that
        only segments.
      seen: images that the network has learned from; None if there are none.
      without_lungs: images that it was shown whole because no lungs were found; None of a network
        that is shown whole images.
      calibration: of a network with a classifier that screens.
      subgroups: by source, format, view, sex and age, of a network that screens.
      saliency: how far heatmaps can be trusted, where there are masks.
      segmentation: masks of lungs and lesion, of a network that makes them.
      ablations: scores on altered images.
      against: comparison with another run.
      ensemble: the runs, if this is the result of their mean.
      classifier: fitted to the network's features in place of its own, see `refitted.CLASSIFIERS`.
      audit: of the data set.
      published: scores of the paper on the same data.
      run: what was evaluated.
      predictions: calibrated, of every image.
      gallery: images with heatmaps.
    """

    split: str
    scores: ScreeningScores | FindingScores | InvolvementScores = field(metadata={"inline": True})
    seen: Overlap | None = None
    without_lungs: int | None = field(default=None, metadata={"key": "without lungs"})
    calibration: Calibration | None = None
    subgroups: Sequence[Subgroup] | None = None
    saliency: Saliency | None = field(default=None, metadata={"key": "heatmaps"})
    segmentation: Segmentation | None = None
    ablations: Sequence[AblationScore] | None = None
    against: Comparison | None = None
    ensemble: Ensemble | None = field(default=None, metadata={"key": "runs"})
    classifier: str | None = None
    audit: AuditSummary | None = None
    published: PublishedTable | None = None
    run: RunSummary
    predictions: Predictions = field(metadata={"json": False})
    gallery: Sequence[Explanation] = field(default=(), metadata={"json": False})

    @property
    def screening(self) -> ScreeningScores | None:
        """The scores if the network screens for a class, else None."""
        if isinstance(self.scores, InvolvementScores):
            return self.scores.screening
        return self.scores if isinstance(self.scores, ScreeningScores) else None

    @property
    def per_image(self) -> UnitScores | FindingScores | InvolvementScores:
        """The scores over images; their number alone if nothing is screened or found in them."""
        scores = self.scores
        if isinstance(scores, InvolvementScores):
            return scores.screening.per_image if scores.screening else scores
        return scores.per_image if isinstance(scores, ScreeningScores) else scores

    @property
    def auc(self) -> Score | None:
        """Over images; None of a network that only segments, if all are of one class."""
        scores = self.per_image
        return None if isinstance(scores, InvolvementScores) else scores.auc

    @property
    def only_segments(self) -> bool:
        """True of a network without a classifier."""
        return isinstance(self.scores, InvolvementScores)

    @property
    def curves(self) -> Iterator[tuple[str, Predictions]]:
        """Predictions of other runs, by name, to be drawn beside these."""
        if self.against:
            yield self.against.path, self.against.predictions
        if self.ensemble:
            yield from zip(self.ensemble.names, self.ensemble.predictions, strict=True)

    def to_json(self) -> dict[str, Any]:
        """The content of `metrics.json`.

        Returns:
          The sections by name, their scores as `value`, `low`, `high` and `left_out`; numbers that
          are undefined are None, and `undefined` says why: path ("auc/value") -> reason.

        Raises:
          TypeError: a value of the configuration has no form in JSON.
        """
        content = json_form.content_of(self)
        reasons = json_form.undefined({k: v for k, v in content.items() if k != "run"})
        return {**json_form.without_nan(content), "undefined": reasons}
