"""Predictions of a split, per image and per patient: what every score is computed from."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A network's probabilities for a split, every image once, beside the true labels.

    Attributes:
      ids: n image ids, all different.
      patients: n patient ids.
      targets: bool [n, k], one column an output; column 0 is the positive class.
      probabilities: float [n, k] in [0, 1].
      outputs: k names, the positive class first.
      known: bool [n, k], False where a target is unknown and does not count; None: all are known.

    Raises:
      ValueError: shapes that do not fit, a target that is not bool, a probability that is NaN or
        outside [0, 1], an id that occurs twice, or no image.
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
        known = self.known
        if known is not None and (known.shape != (n, k) or known.dtype != bool):
            raise ValueError(f"known is {known.dtype} {known.shape}; give bool {(n, k)}")
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
                f"{(counts > 1).sum()} ids occur more than once, {str(names[counts > 1][0])!r} "
                f"{counts[counts > 1][0]} times; every image counts once, so leave padding out"
            )

    @property
    def counted(self) -> np.ndarray:
        """`known` in full, bool [n, k]."""
        return np.ones_like(self.targets) if self.known is None else self.known

    @property
    def positive(self) -> np.ndarray:
        """True where an image is of the positive class, bool [n]."""
        return self.targets[:, 0]

    @property
    def probability(self) -> np.ndarray:
        """Probability of the positive class, float [n]."""
        return self.probabilities[:, 0]

    def part(self, chosen: Sequence[int]) -> "Predictions":
        """The predictions of some images, by index."""
        return Predictions(
            ids=[self.ids[i] for i in chosen],
            patients=[self.patients[i] for i in chosen],
            targets=self.targets[chosen],
            probabilities=self.probabilities[chosen],
            outputs=self.outputs,
            known=None if self.known is None else self.known[chosen],
        )


def per_patient(predictions: Predictions) -> Predictions:
    """Joins the images of each patient into one prediction.

    A patient's probability is the mean over the images. A patient is positive when any image is;
    where every image has at most one label (`one_vs_rest`), the patient has one too, the first in
    the order of the outputs: COVID-19 before other pneumonia before normal.

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


def check_scores(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Checks labels and scores.

    Args:
      positive: bool or 0 and 1, [n].
      score: float [n].

    Returns:
      The two as bool [n] and float64 [n].

    Raises:
      ValueError: shapes differ, another label than 0 or 1, or a score is NaN.
    """
    positive, score = np.asarray(positive), np.asarray(score, dtype=np.float64)
    if positive.ndim != 1 or positive.shape != score.shape:
        raise ValueError(f"shapes are {positive.shape} and {score.shape}; both must be [n]")
    if not np.isin(positive, (0, 1)).all():
        raise ValueError("positive must hold 0 and 1 (or bool) alone")
    if np.isnan(score).any():
        raise ValueError(f"{int(np.isnan(score).sum())} of {score.size} scores are NaN")
    return positive.astype(bool), score
