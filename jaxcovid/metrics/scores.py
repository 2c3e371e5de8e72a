"""Scores of a screening network: AUC, thresholds, confusion counts and what follows from them.

The positive class is column 0 (COVID-19). An image is called positive where its probability is at
or above the threshold. A score that is 0/0 is NaN here and null in `metrics.json`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcovid.metrics import bootstrap
from jaxcovid.metrics.calibration import predictive_values

SENSITIVITIES = {"sensitivity_90": 90, "sensitivity_95": 95}  # name -> per cent
PREVALENCES = (0.01, 0.05, 0.2, 0.5)  # at which predictive values are given
RATIOS = ("accuracy", "precision", "recall", "f", "specificity")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a network said about a split, every image once, and what is true.

    Attributes:
      ids: n image ids, all different.
      patients: n patient ids.
      targets: bool [n, k], one column an output; column 0 is the positive class.
      probabilities: float [n, k] in [0, 1].
      outputs: k names, the positive class first.
      known: bool [n, k], False where a target is not known and does not count; None for all.

    Raises:
      ValueError: shapes that do not fit, a target that is not bool, a probability that is NaN or
        outside [0, 1], an id that stands twice, or no image.
    """

    ids: Sequence[str]
    patients: Sequence[str]
    targets: np.ndarray
    probabilities: np.ndarray
    outputs: tuple[str, ...]
    known: np.ndarray | None = None

    def __post_init__(self) -> None:
        n, k = len(self.ids), len(self.outputs)
        if not n or not k:
            raise ValueError(f"predictions need images and outputs; there are {n} and {k}")
        if len(self.patients) != n:
            raise ValueError(f"{n} ids but {len(self.patients)} patients; give one for each image")
        for name in ("targets", "probabilities"):
            shape = np.shape(getattr(self, name))
            if shape != (n, k):
                raise ValueError(f"{name} has shape {shape}; {n} ids and {k} outputs need {(n, k)}")
        if self.known is not None and (self.known.shape, self.known.dtype) != ((n, k), bool):
            raise ValueError(f"known is {self.known.dtype} {self.known.shape}; give bool {(n, k)}")
        if self.targets.dtype != bool:
            raise ValueError(f"targets are {self.targets.dtype}; give bool")
        if not np.issubdtype(self.probabilities.dtype, np.floating):
            raise ValueError(f"probabilities are {self.probabilities.dtype}; give floats")
        missing = int(np.isnan(self.probabilities).any(axis=1).sum())
        if missing:
            raise ValueError(f"{missing} of {n} images have a probability that is NaN")
        low, high = self.probabilities.min(), self.probabilities.max()
        if low < 0 or high > 1:
            raise ValueError(
                f"probabilities lie in [{low:g}, {high:g}], not [0, 1]; apply the sigmoid to logits"
            )
        names, counts = np.unique(np.asarray(self.ids, dtype=str), return_counts=True)
        if names.size < n:
            raise ValueError(
                f"{(counts > 1).sum()} ids stand more than once, {str(names[counts > 1][0])!r} "
                f"{counts[counts > 1][0]} times; every image counts once, so leave padding out"
            )

    @property
    def counted(self) -> np.ndarray:
        """`known` in full, bool [n, k]."""
        return np.ones_like(self.targets) if self.known is None else self.known


def auc(positive: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve; tied scores count half, as in `sklearn.metrics.roc_auc_score`.

    Args:
      positive: bool [n].
      score: float [n], higher means more likely positive.

    Returns:
      In [0, 1]; NaN when one class is absent.

    Raises:
      ValueError: shapes differ, or a score is NaN.
    """
    positive, score = _checked(positive, score)
    return float(bootstrap.weighted_auc(positive, score, np.ones((1, positive.size)))[0])


def average_precision(positive: np.ndarray, score: np.ndarray) -> float:
    """Area under the precision-recall curve; of a coin it is the share of positives.

    Args:
      positive: bool [n].
      score: float [n].
    """
    from sklearn.metrics import average_precision_score

    if not positive.any():
        return float("nan")
    return float(average_precision_score(positive, score))


def choose_thresholds(positive: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Chooses the operating points, on validation images.

    Only thresholds half-way between neighbouring distinct probabilities are considered (and half
    the lowest one, which calls every image positive), so that rounding moves no image across.
    `youden` has the largest J = sensitivity + specificity - 1 (Youden 1950); among equal ones the
    lowest, the one that misses fewest patients. `sensitivity_90` and `sensitivity_95` are the
    largest thresholds with at least that sensitivity.

    Args:
      positive: bool [n].
      probability: float [n] in [0, 1].

    Returns:
      'youden', 'sensitivity_90', 'sensitivity_95' -> threshold; positive is probability >= it.

    Raises:
      ValueError: one class is absent, shapes differ, or a probability is NaN.
    """
    positive, probability = _checked(positive, probability)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        raise ValueError(
            f"thresholds need both classes; the images hold {positives} positives and {negatives} "
            "negatives. Choose them on a larger validation split"
        )
    scores, group = np.unique(probability, return_inverse=True)
    previous = np.concatenate([[0.0], scores[:-1]])
    middle = (previous + scores) / 2
    thresholds = np.where(middle > previous, middle, scores)  # neighbours in float64 have no middle
    # Calls at thresholds[i] are the images whose score is scores[i] or more.
    true_calls = np.cumsum(np.bincount(group[positive], minlength=scores.size)[::-1])[::-1]
    false_calls = np.cumsum(np.bincount(group[~positive], minlength=scores.size)[::-1])[::-1]
    youden = true_calls * negatives - false_calls * positives  # J in integers: exact ties
    chosen = {"youden": float(thresholds[np.argmax(youden)])}
    for name, percent in SENSITIVITIES.items():
        reached = np.flatnonzero(100 * true_calls >= percent * positives)
        chosen[name] = float(thresholds[reached[-1]])
    return chosen


def confusion(
    positive: np.ndarray, probability: np.ndarray, threshold: float
) -> dict[str, int | float]:
    """Counts calls against the truth at a threshold, and the ratios that follow.

    Args:
      positive: bool [n].
      probability: float [n]; an image is called positive where it is >= threshold.
      threshold: in [0, 1].

    Returns:
      Counts 'tp', 'fp', 'tn', 'fn', and 'accuracy', 'precision', 'recall' (sensitivity),
      'f' = 2 precision recall / (precision + recall) and 'specificity'. F is computed as
      2 TP / (2 TP + FP + FN): the same number, and 0 where no positive is found. 0/0 is NaN.

    Raises:
      ValueError: shapes differ, or a probability is NaN.
    """
    positive, probability = _checked(positive, probability)
    called = probability >= threshold
    counts = {
        "tp": int((called & positive).sum()),
        "fp": int((called & ~positive).sum()),
        "tn": int((~called & ~positive).sum()),
        "fn": int((~called & positive).sum()),
    }
    parts = _ratio_parts(positive, called)
    return counts | {
        name: _divide(top.sum(), bottom.sum()) for name, (top, bottom) in parts.items()
    }


def per_patient(predictions: Predictions) -> Predictions:
    """Joins the images of each patient into one prediction.

    A patient's probability is the mean over the images. A patient is positive when any image is;
    where every image has at most one label (three_way), the patient has one too, the first in the
    order of the outputs: COVID-19 before other pneumonia before normal.

    Args:
      predictions: n images of p patients.

    Returns:
      p patients in the order of their ids; `ids` are the patients' ids.
    """
    names, patient = np.unique(np.asarray(predictions.patients, dtype=str), return_inverse=True)
    images = np.bincount(patient)[:, None]
    probabilities = np.zeros((names.size, len(predictions.outputs)))
    np.add.at(probabilities, patient, predictions.probabilities)
    targets = np.zeros(probabilities.shape, bool)
    np.logical_or.at(targets, patient, predictions.targets)
    if (predictions.targets.sum(axis=1) <= 1).all():
        targets &= np.cumsum(targets, axis=1) == 1
    return Predictions(
        ids=names.tolist(),
        patients=names.tolist(),
        targets=targets,
        probabilities=np.clip(probabilities / images, 0.0, 1.0),
        outputs=predictions.outputs,
    )


def evaluate(
    predictions: Predictions,
    *,
    thresholds: Mapping[str, float],
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every score of a split, per image and per patient: the content of `metrics.json`.

    Args:
      predictions: n images.
      thresholds: from `choose_thresholds` on validation; 0.5 is added as "0.5".
      resamples: bootstrap resamples of patients.
      seed: of the resamples.

    Returns:
      'n', 'n_patients', 'n_positive', 'positive_class', 'auc' (a score), for several outputs
      'auc_macro' (a score) and 'auc_per_output' (name -> score), 'operating_points' (name ->
      'threshold', 'accuracy', 'precision', 'recall', 'f', 'specificity' (scores), 'confusion' and
      'predictive_values', see `calibration`), 'average_precision',
      'averages' (of precision, recall and F over the two classes, at Youden's threshold), for three
      exclusive classes 'classes' and 'class_averages' (see `class_report`),
      'intervals' (method, level, resamples, seed) and 'per_patient' (the same structure). A score
      is {'value', 'low', 'high', 'left_out'}; see `bootstrap.intervals`.

    Raises:
      ValueError: no 'youden' in thresholds, or a threshold outside [0, 1].
    """
    if "youden" not in thresholds:
        raise ValueError(f"thresholds lack 'youden'; they are {sorted(thresholds)}")
    for name, threshold in thresholds.items():
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold {name} is {threshold}, not in [0, 1]")
    points = {**thresholds, "0.5": 0.5}
    return {
        **unit_scores(predictions, points, resamples=resamples, seed=seed),
        "intervals": _method(resamples, seed),
        "per_patient": unit_scores(
            per_patient(predictions), points, resamples=resamples, seed=seed
        ),
    }


def evaluate_findings(
    predictions: Predictions, *, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """The scores of a network for findings, film by film: the content of its `metrics.json`.

    Args:
      predictions: n films; a film may have several findings.
      resamples: bootstrap resamples of patients.
      seed: of the resamples.

    Returns:
      'n', 'n_patients', 'auc' (the mean over the findings that are both present and absent, a
      score), 'auc_per_output' (name -> score), 'counts' (name -> 'positive', 'negative',
      'unknown') and 'intervals', each as in `evaluate`.
    """
    targets, probabilities = predictions.targets, predictions.probabilities.astype(np.float64)
    known = predictions.counted
    both = [
        column
        for column in range(targets.shape[1])
        if _two_sides(targets[:, column], known[:, column])
    ]
    both = both or list(range(targets.shape[1]))
    aucs = {"": (targets[:, both], probabilities[:, both])}
    counted, counts = {"": known[:, both]}, {}
    for column, output in enumerate(predictions.outputs):
        target, of = targets[:, column], known[:, column]
        aucs[output], counted[output] = (target, probabilities[:, column]), of
        counts[output] = {
            "positive": int((target & of).sum()),
            "negative": int((~target & of).sum()),
            "unknown": int((~of).sum()),
        }
    found = bootstrap.intervals(
        predictions.patients, aucs=aucs, ratios={}, known=counted, resamples=resamples, seed=seed
    )
    return {
        "n": len(predictions.ids),
        "n_patients": len(set(predictions.patients)),
        "auc": found.pop(""),
        "auc_per_output": found,
        "counts": counts,
        "intervals": _method(resamples, seed),
    }


def _two_sides(target: np.ndarray, known: np.ndarray) -> bool:
    return bool(target[known].any() and not target[known].all())


def _method(resamples: int, seed: int) -> dict[str, Any]:
    return {
        "method": bootstrap.METHOD,
        "level": bootstrap.LEVEL,
        "resamples": resamples,
        "seed": seed,
    }


def unit_scores(
    predictions: Predictions, points: Mapping[str, float], *, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """The scores of `evaluate` for one unit, image or patient; points need 'youden'."""
    targets = predictions.targets
    # float64: a threshold between two float32 neighbours would round to one of them.
    probabilities = predictions.probabilities.astype(np.float64)
    positive, probability = targets[:, 0], probabilities[:, 0]
    aucs = {"auc": (positive, probability)}
    if len(predictions.outputs) > 1:
        aucs["auc_macro"] = (targets, probabilities)
        for column, output in enumerate(predictions.outputs):
            aucs[f"auc/{output}"] = (targets[:, column], probabilities[:, column])
    ratios = {
        f"{point}/{ratio}": parts
        for point, threshold in points.items()
        for ratio, parts in _ratio_parts(positive, probability >= threshold).items()
    }
    found = bootstrap.intervals(
        predictions.patients, aucs=aucs, ratios=ratios, resamples=resamples, seed=seed
    )
    result = {
        "n": len(predictions.ids),
        "n_patients": len(set(predictions.patients)),
        "n_positive": int(positive.sum()),
        "positive_class": predictions.outputs[0],
        "auc": found["auc"],
        "average_precision": average_precision(positive, probability),
    }
    if len(predictions.outputs) > 1:
        result["auc_macro"] = found["auc_macro"]
        result["auc_per_output"] = {name: found[f"auc/{name}"] for name in predictions.outputs}
    result["operating_points"] = {}
    for point, threshold in points.items():
        counts = confusion(positive, probability, threshold)
        result["operating_points"][point] = {
            "threshold": float(threshold),
            **{ratio: found[f"{point}/{ratio}"] for ratio in RATIOS},
            "confusion": {name: counts[name] for name in ("tp", "fp", "tn", "fn")},
            "predictive_values": predictive_values(
                counts["recall"], counts["specificity"], PREVALENCES
            ),
        }
    result["averages"] = _averages(positive, probability >= points["youden"])
    if len(predictions.outputs) > 2 and (targets.sum(1) == 1).all():
        result["classes"] = class_report(targets, probabilities, predictions.outputs)
        result["class_averages"] = class_averages(result["classes"])
    return result


def class_averages(report: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Precision, recall and F of a `class_report`: pooled, their mean, and weighted by class size.

    Pooled all three are the accuracy: every image has one call.
    """
    sizes = np.array([row["n"] for row in report.values()])
    right = sum(row["called"][name] for name, row in report.items())
    averages = {"pooled": dict.fromkeys(("precision", "recall", "f"), float(right / sizes.sum()))}
    averages |= {"macro": {}, "weighted": {}}
    for name in ("precision", "recall", "f"):
        values = np.array([row[name] for row in report.values()])
        averages["macro"][name] = float(values.mean())
        averages["weighted"][name] = float((values * sizes).sum() / sizes.sum())
    return averages


def class_report(
    targets: np.ndarray, probabilities: np.ndarray, outputs: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Each class against what was called: the output of highest probability.

    Args:
      targets: bool [n, k], one True a row.
      probabilities: float [n, k].
      outputs: k names.

    Returns:
      For each class 'n', 'called' (name -> how often it was called so), 'precision', 'recall' and
      'f'; 0/0 is NaN.
    """
    called = np.eye(len(outputs), dtype=bool)[probabilities.argmax(1)]
    return _report(targets, called, outputs)


def _report(
    targets: np.ndarray, called: np.ndarray, outputs: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """`class_report` of calls, bool [n, k] with one True a row."""
    report = {}
    for column, output in enumerate(outputs):
        of_class = targets[:, column]
        parts = _ratio_parts(of_class, called[:, column])
        report[output] = {
            "n": int(of_class.sum()),
            "called": {
                other: int((of_class & called[:, k]).sum()) for k, other in enumerate(outputs)
            },
            **{
                name: _divide(*(part.sum() for part in parts[name]))
                for name in ("precision", "recall", "f")
            },
        }
    return report


def _averages(positive: np.ndarray, called: np.ndarray) -> dict[str, dict[str, float]]:
    """`class_averages` over the positive class and the rest."""
    sides = [np.stack([column, ~column], axis=1) for column in (positive, called)]
    return class_averages(_report(*sides, ("positive", "rest")))


def _ratio_parts(
    positive: np.ndarray, called: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each ratio's numerator and denominator, int [n]; the ratio is the quotient of their sums."""
    hit = (positive & called).astype(np.int64)
    pair = positive.astype(np.int64) + called  # 2 TP + FP + FN, image by image
    parts = {
        "accuracy": ((positive == called).astype(np.int64), np.ones(positive.size, np.int64)),
        "precision": (hit, called.astype(np.int64)),
        "recall": (hit, positive.astype(np.int64)),
        "f": (2 * hit, pair),
        "specificity": ((~positive & ~called).astype(np.int64), (~positive).astype(np.int64)),
    }
    return {name: parts[name] for name in RATIOS}


def _divide(top: float, bottom: float) -> float:
    return float(top / bottom) if bottom else float("nan")


def _checked(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two as bool [n] and float64 [n]."""
    positive, score = np.asarray(positive), np.asarray(score, dtype=np.float64)
    if positive.ndim != 1 or positive.shape != score.shape:
        raise ValueError(f"shapes are {positive.shape} and {score.shape}; both must be [n]")
    if not np.isin(positive, (0, 1)).all():
        raise ValueError("positive must hold 0 and 1 (or bool) alone")
    if np.isnan(score).any():
        raise ValueError(f"{int(np.isnan(score).sum())} of {score.size} scores are NaN")
    return positive.astype(bool), score
