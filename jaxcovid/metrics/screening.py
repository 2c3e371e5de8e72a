"""The scores of a network that looks for a positive class: per image and per patient."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxcovid.metrics import bootstrap
from jaxcovid.metrics.calibration import PredictiveValues, predictive_values
from jaxcovid.metrics.classes import Averages, ClassScores, average_classes, class_report
from jaxcovid.metrics.interval import IntervalMethod, Score
from jaxcovid.metrics.predictions import Predictions, per_patient
from jaxcovid.metrics.scores import RATIOS, Confusion, average_precision, confusion
from jaxcovid.metrics.thresholds import main_name

PREVALENCES = (0.01, 0.05, 0.2, 0.5)  # at which predictive values are given


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """Scores at a threshold.

    Attributes:
      threshold: at and above which an image is called positive.
      ratios: by the names of `RATIOS`.
      confusion: counts.
      predictive_values: by prevalence ("0.05").
    """

    threshold: float
    ratios: Mapping[str, Score] = dataclasses.field(metadata={"inline": True})
    confusion: Confusion
    predictive_values: Mapping[str, PredictiveValues]


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitScores:
    """Scores per image or per patient.

    Attributes:
      n: images or patients.
      n_patients: patients.
      n_positive: of the positive class.
      positive_class: its name.
      auc: of the positive class against the rest.
      average_precision: of the same.
      auc_macro: mean over several outputs.
      auc_per_output: of each of several outputs against the rest.
      operating_points: by name (`youden`, ...).
      averages: over the positive class and the rest, at the main threshold.
      classes: of three exclusive classes or more, each against the output of highest probability.
      class_averages: over these.
    """

    n: int
    n_patients: int
    n_positive: int
    positive_class: str
    auc: Score
    average_precision: float
    auc_macro: Score | None = None
    auc_per_output: Mapping[str, Score] | None = None
    operating_points: Mapping[str, OperatingPoint]
    averages: Averages
    classes: Mapping[str, ClassScores] | None = None
    class_averages: Averages | None = None

    @property
    def main_point(self) -> str:
        """The name of the operating point that is shown first."""
        return main_name({name: point.threshold for name, point in self.operating_points.items()})


@dataclasses.dataclass(frozen=True)
class ScreeningScores:
    """Scores of a network that looks for a positive class."""

    per_image: UnitScores = dataclasses.field(metadata={"inline": True})
    intervals: IntervalMethod
    per_patient: UnitScores


@dataclasses.dataclass(frozen=True, kw_only=True)
class InvolvementScores:
    """Scores of a network that segments and has no classifier.

    Attributes:
      n: images.
      n_patients: patients.
      screening: by the share of the lungs that is involved, which is the network's probability;
        None where all images are of one class.
      intervals: how they were computed.
    """

    n: int
    n_patients: int
    screening: ScreeningScores | None = None
    intervals: IntervalMethod


def evaluate_involvement(
    predictions: Predictions,
    *,
    thresholds: Mapping[str, float],
    resamples: int = 2000,
    seed: int = 0,
) -> InvolvementScores:
    """Scores the share of the lungs that is involved as a sign of the positive class.

    Args: see `evaluate_screening`; 0.5 is no threshold that says anything of such a share.
    """
    positive = predictions.positive
    screening = None
    if positive.any() and not positive.all():
        screening = evaluate_screening(
            predictions, thresholds=thresholds, half=False, resamples=resamples, seed=seed
        )
    return InvolvementScores(
        n=len(predictions.ids),
        n_patients=len(set(predictions.patients)),
        screening=screening,
        intervals=IntervalMethod(resamples=resamples, seed=seed),
    )


def evaluate_screening(
    predictions: Predictions,
    *,
    thresholds: Mapping[str, float],
    half: bool = True,
    resamples: int = 2000,
    seed: int = 0,
) -> ScreeningScores:
    """Every score of a split, per image and per patient.

    Args:
      predictions: n images.
      thresholds: from `choose_thresholds` on validation.
      half: add the threshold 0.5 as "0.5".
      resamples: bootstrap resamples of patients.
      seed: of the resamples.

    Raises:
      ValueError: no thresholds, or one outside [0, 1].
    """
    if not thresholds:
        raise ValueError("there are no thresholds; take a checkpoint that was validated")
    for name, threshold in thresholds.items():
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold {name} is {threshold}, not in [0, 1]")
    points = {**thresholds, **({"0.5": 0.5} if half else {})}
    per_image, patients = (
        unit_scores(unit, points, resamples=resamples, seed=seed)
        for unit in (predictions, per_patient(predictions))
    )
    return ScreeningScores(per_image, IntervalMethod(resamples=resamples, seed=seed), patients)


def unit_scores(
    predictions: Predictions, points: Mapping[str, float], *, resamples: int = 2000, seed: int = 0
) -> UnitScores:
    """The scores of `evaluate_screening` for one unit, image or patient."""
    # float64: a threshold between two float32 neighbours would round to one of them.
    probabilities = predictions.probabilities.astype(np.float64)
    targets, positive, probability = predictions.targets, predictions.positive, probabilities[:, 0]
    outputs = predictions.outputs if len(predictions.outputs) > 1 else ()
    aucs = {"auc": (positive, probability)}
    if outputs:
        aucs["auc_macro"] = (targets, probabilities)
    for column, output in enumerate(outputs):
        aucs[f"auc/{output}"] = (targets[:, column], probabilities[:, column])
    calls = {point: probability >= threshold for point, threshold in points.items()}
    ratios = {
        f"{point}/{name}": ratio.parts(positive, called)
        for point, called in calls.items()
        for name, ratio in RATIOS.items()
    }
    scores = bootstrap.intervals(
        predictions.patients, aucs=aucs, ratios=ratios, resamples=resamples, seed=seed
    )
    classes = None
    if len(outputs) > 2 and (targets.sum(1) == 1).all():
        classes = class_report(targets.argmax(1), probabilities.argmax(1), outputs)
    both = class_report(~positive, ~calls[main_name(points)], ("positive", "rest"))
    return UnitScores(
        n=len(predictions.ids),
        n_patients=len(set(predictions.patients)),
        n_positive=int(positive.sum()),
        positive_class=predictions.outputs[0],
        auc=scores["auc"],
        average_precision=average_precision(positive, probability),
        auc_macro=scores.get("auc_macro"),
        auc_per_output={name: scores[f"auc/{name}"] for name in outputs} or None,
        operating_points={
            point: _operating_point(
                threshold,
                {name: scores[f"{point}/{name}"] for name in RATIOS},
                confusion(positive, calls[point]),
            )
            for point, threshold in points.items()
        },
        averages=average_classes(both),
        classes=classes,
        class_averages=average_classes(classes) if classes else None,
    )


def _operating_point(
    threshold: float, ratios: Mapping[str, Score], counts: Confusion
) -> OperatingPoint:
    sensitivity, specificity = ratios["recall"].value, ratios["specificity"].value
    values = predictive_values(sensitivity, specificity, PREVALENCES)
    return OperatingPoint(float(threshold), ratios, counts, values)
