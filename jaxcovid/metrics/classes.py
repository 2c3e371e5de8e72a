"""Precision, recall and F class by class, and their averages over the classes."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class ClassScores:
    """One class against what was called.

    Attributes:
      n: images of the class.
      called: how often these were called each class, by name.
      precision: share of the class among the images that were called so; 0/0 is NaN, as below.
      recall: share of the images of the class that were called so.
      f: harmonic mean of the two.
    """

    n: int
    called: Mapping[str, int]
    precision: float
    recall: float
    f: float


@dataclasses.dataclass(frozen=True)
class Average:
    """Precision, recall and F of all classes together; NaN where one of a class is."""

    precision: float
    recall: float
    f: float


@dataclasses.dataclass(frozen=True)
class Averages:
    """Three ways to average over classes.

    Attributes:
      pooled: of all calls together: each of the three is the accuracy, as every image has one call.
      macro: mean over the classes.
      weighted: mean over the classes, weighted by their images.
    """

    pooled: Average
    macro: Average
    weighted: Average


def class_report(
    truth: np.ndarray, called: np.ndarray, names: Sequence[str]
) -> dict[str, ClassScores]:
    """Each class against what was called.

    Args:
      truth: index of each image's class, int [n].
      called: index of the class that it was called, int [n].
      names: of the classes.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    truth, called, labels = truth.astype(int), called.astype(int), range(len(names))
    counts = confusion_matrix(truth, called, labels=labels)
    scores = precision_recall_fscore_support(truth, called, labels=labels, zero_division=np.nan)
    return {
        name: ClassScores(
            int(size),
            dict(zip(names, row.tolist(), strict=True)),
            float(precision),
            float(recall),
            float(f),
        )
        for name, row, precision, recall, f, size in zip(names, counts, *scores, strict=True)
    }


def average_classes(report: Mapping[str, ClassScores]) -> Averages:
    """The averages of a `class_report`."""
    # scikit-learn's own averages leave an undefined class out; here it makes them undefined.
    sizes = [row.n for row in report.values()]
    scores = np.array([(row.precision, row.recall, row.f) for row in report.values()])
    hits = sum(row.called[name] for name, row in report.items())
    return Averages(
        pooled=Average(*[hits / sum(sizes)] * 3),
        macro=Average(*scores.mean(axis=0).tolist()),
        weighted=Average(*np.average(scores, axis=0, weights=sizes).tolist()),
    )
