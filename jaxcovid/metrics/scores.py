"""Scores of a network: AUC, average precision, and ratios of counts at each operating point.

The positive class is column 0 (COVID-19). An image is called positive where its probability is at
or above the threshold. A score that is 0/0 is NaN here and null in `metrics.json`.

A new score at a threshold is a function like `precision` and a line in `RATIOS`: intervals, report,
model card and log follow.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxcovid.metrics import bootstrap
from jaxcovid.metrics.predictions import check_scores

Parts = tuple[np.ndarray, np.ndarray]


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
    positive, score = check_scores(positive, score)
    return float(bootstrap.weighted_auc(positive, score, np.ones((1, positive.size)))[0])


def average_precision(positive: np.ndarray, score: np.ndarray) -> float:
    """Area under the precision-recall curve; of random scores it is the share of positives.

    Args:
      positive: bool [n].
      score: float [n].
    """
    from sklearn.metrics import average_precision_score

    if not positive.any():
        return float("nan")
    return float(average_precision_score(positive, score))


# Each ratio as its numerator and denominator, int [n], of labels and calls, bool [n]: the score is
# the quotient of their sums, so that a resample of patients needs only sums.


def accuracy(positive: np.ndarray, called: np.ndarray) -> Parts:
    """Share of right calls."""
    return (positive == called).astype(int), np.ones(positive.size, int)


def precision(positive: np.ndarray, called: np.ndarray) -> Parts:
    """Share of positives among the images called positive: TP / (TP + FP)."""
    return (positive & called).astype(int), called.astype(int)


def recall(positive: np.ndarray, called: np.ndarray) -> Parts:
    """Share of the positives that are called so, the sensitivity: TP / (TP + FN)."""
    return (positive & called).astype(int), positive.astype(int)


def f_score(positive: np.ndarray, called: np.ndarray) -> Parts:
    """Harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN)."""
    return 2 * (positive & called).astype(int), positive.astype(int) + called


def specificity(positive: np.ndarray, called: np.ndarray) -> Parts:
    """Share of the negatives that are called so: TN / (TN + FP)."""
    return (~positive & ~called).astype(int), (~positive).astype(int)


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A score of calls at a threshold.

    Attributes:
      parts: its numerator and denominator.
      label: in tables.
      undefined: why it may be 0/0.
    """

    parts: Callable[[np.ndarray, np.ndarray], Parts]
    label: str
    undefined: str = ""


RATIOS = {
    "accuracy": Ratio(accuracy, "Accuracy"),
    "precision": Ratio(precision, "Precision (PPV)", "nothing is called positive (TP + FP = 0)"),
    "recall": Ratio(recall, "Sensitivity (recall)", "nothing is positive (TP + FN = 0)"),
    "f": Ratio(f_score, "F", "nothing is positive or called positive (TP + FP + FN = 0)"),
    "specificity": Ratio(specificity, "Specificity", "nothing is negative (TN + FP = 0)"),
}


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Calls against the truth: true and false positives, true and false negatives."""

    tp: int
    fp: int
    tn: int
    fn: int


def confusion(positive: np.ndarray, called: np.ndarray) -> Confusion:
    """Counts calls against the truth, bool [n] each."""
    return Confusion(
        tp=int((called & positive).sum()),
        fp=int((called & ~positive).sum()),
        tn=int((~called & ~positive).sum()),
        fn=int((~called & positive).sum()),
    )
