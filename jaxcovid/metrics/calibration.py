"""Do probabilities mean what they say? Temperature, likelihood, Brier score and calibration error.

A temperature divides the logits of all outputs (Guo et al. 2017, arXiv:1706.04599): it changes no
ranking. It is fitted on validation and never on what is scored, against targets that are smoothed
as Platt did (1999), so that a few images which happen to be separated do not make it certain.

`expit`, `logit` and `xlogy` of `scipy.special` differ from the formulas here in the last bit, and
with them the temperatures and thresholds of runs that were trained before: they are not used.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

BINS = 15
_CLIP = 1e-7
_LOG_RANGE = (-3.0, 3.0)  # of the temperature: 0.05 to 20


@dataclasses.dataclass(frozen=True)
class CalibrationErrors:
    """How far probabilities are from the truth.

    Attributes:
      nll: mean negative log-likelihood, nats.
      brier: mean squared error.
      ece: expected calibration error over `BINS` bins of equally many images.
    """

    nll: float
    brier: float
    ece: float


@dataclasses.dataclass(frozen=True)
class ReliabilityBin:
    """Images of similar probability: how many, their mean probability, and share of positives."""

    n: int
    probability: float
    share: float


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Calibration of the positive class.

    Attributes:
      temperature: by which logits are divided, fitted on validation.
      before: without it.
      after: with it.
      reliability: with it.
    """

    temperature: float
    before: CalibrationErrors
    after: CalibrationErrors
    reliability: Sequence[ReliabilityBin]


@dataclasses.dataclass(frozen=True)
class PredictiveValues:
    """Positive and negative predictive value at a prevalence; 0/0 is NaN."""

    ppv: float
    npv: float


def _logits(probabilities: np.ndarray, *, exclusive: bool) -> np.ndarray:
    clipped = np.clip(probabilities.astype(np.float64), _CLIP, 1 - _CLIP)
    return np.log(clipped) if exclusive else np.log(clipped) - np.log1p(-clipped)


def apply_temperature(
    probabilities: np.ndarray, temperature: float, *, exclusive: bool
) -> np.ndarray:
    """Probabilities float64 [n, outputs] after dividing the logits.

    Args:
      probabilities: float [n, outputs].
      temperature: above 0; 1 returns them as they are.
      exclusive: the outputs are one softmax; else independent sigmoids.
    """
    from scipy.special import softmax

    logits = _logits(probabilities, exclusive=exclusive) / temperature
    if exclusive:
        return softmax(logits, axis=1)
    return 1 / (1 + np.exp(-logits))


def fit_temperature(probabilities: np.ndarray, targets: np.ndarray, *, exclusive: bool) -> float:
    """The temperature of highest likelihood of smoothed targets, between 0.05 and 20.

    Of n positive images a target is (n + 1) / (n + 2) instead of 1, of n negative ones 1 / (n + 2)
    instead of 0.

    Args:
      probabilities: float [n, outputs] of validation images.
      targets: float [n, outputs], 1, 0 or below 0 where unknown.
      exclusive: see `apply_temperature`.
    """
    from scipy.optimize import minimize_scalar

    positives, negatives = ((targets == label).sum(0) for label in (1, 0))
    smooth = np.where(targets > 0.5, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    if exclusive:
        smooth = smooth / smooth.sum(1, keepdims=True)
    smooth = np.where(targets < 0, targets, smooth)

    def misfit(log_temperature: float) -> float:
        calibrated = apply_temperature(probabilities, np.exp(log_temperature), exclusive=exclusive)
        return loss(calibrated, smooth, exclusive=exclusive)

    return float(np.exp(minimize_scalar(misfit, bounds=_LOG_RANGE, method="bounded").x))


def loss(
    probabilities: np.ndarray,
    targets: np.ndarray,
    *,
    exclusive: bool,
    weights: np.ndarray | None = None,
) -> float:
    """Mean negative log-likelihood, nats, of known targets (of images, if exclusive).

    Args:
      probabilities: float [n, outputs].
      targets: float [n, outputs], 1, 0 or below 0 where unknown.
      exclusive: see `apply_temperature`.
      weights: float [2, outputs] of negative (row 0) and positive targets (row 1), as those of
        `losses.class_weights`; None weighs all the same.
    """
    negative, positive = np.ones((2, targets.shape[1])) if weights is None else weights
    clipped = np.clip(probabilities.astype(np.float64), _CLIP, 1 - _CLIP)
    if exclusive:
        return float(-(positive * targets * np.log(clipped)).sum(1).mean())
    losses = -(positive * targets * np.log(clipped) + negative * (1 - targets) * np.log1p(-clipped))
    return float(losses.mean(where=targets >= 0))


def calibration_of(
    positive: np.ndarray, before: np.ndarray, after: np.ndarray, *, temperature: float
) -> Calibration:
    """Calibration before and after a temperature.

    Args:
      positive: bool [n].
      before: float [n], probabilities of the positive class without the temperature.
      after: float [n], with it.
      temperature: fitted on validation.
    """
    return Calibration(
        temperature,
        calibration_errors(positive, before),
        calibration_errors(positive, after),
        reliability(positive, after),
    )


def reliability(
    positive: np.ndarray, probability: np.ndarray, *, bins: int = BINS
) -> list[ReliabilityBin]:
    """Bins of equally many images by probability.

    `sklearn.calibration.calibration_curve` cuts at quantiles of the probability instead, so that
    tied images fall into one bin and the bins differ in size.

    Args:
      positive: bool [n].
      probability: float [n] of the positive class.
      bins: fewer are made of fewer images.
    """
    probability = np.asarray(probability, np.float64)
    order = np.argsort(probability, kind="stable")
    return [
        ReliabilityBin(part.size, float(probability[part].mean()), float(positive[part].mean()))
        for part in np.array_split(order, min(bins, order.size))
    ]


def calibration_errors(positive: np.ndarray, probability: np.ndarray) -> CalibrationErrors:
    """How far probabilities of the positive class are from the truth.

    Args:
      positive: bool [n].
      probability: float [n] of the positive class.
    """
    probability = np.asarray(probability, np.float64)
    bins = reliability(positive, probability)
    return CalibrationErrors(
        nll=loss(probability[:, None], positive[:, None].astype(float), exclusive=False),
        brier=float(np.square(probability - positive).mean()),
        ece=sum(part.n * abs(part.probability - part.share) for part in bins) / positive.size,
    )


def at_prevalence(probability: np.ndarray, fitted_at: float, prevalence: float) -> np.ndarray:
    """Calibrated probabilities of the positive class as they are at another prevalence.

    By Bayes' rule the odds are multiplied by the ratio of the prior odds (Saerens, Latinne &
    Decaestecker 2002, doi 10.1162/089976602753284446). It holds if the images of each class are of
    the same kind at both prevalences.

    Args:
      probability: float [...].
      fitted_at: prevalence in the images that the temperature was fitted on.
      prevalence: where the image comes from.

    Returns:
      float64 [...].

    Raises:
      ValueError: a prevalence that is not between 0 and 1.
    """
    for name, value in (("fitted_at", fitted_at), ("prevalence", prevalence)):
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value:g}; a prevalence is above 0 and below 1")
    probability = np.asarray(probability, np.float64)
    positive = probability * prevalence / fitted_at
    negative = (1 - probability) * (1 - prevalence) / (1 - fitted_at)
    return positive / (positive + negative)


def predictive_values(
    sensitivity: float, specificity: float, prevalences: Sequence[float]
) -> dict[str, PredictiveValues]:
    """Predictive values by Bayes' rule, by prevalence ("0.05")."""
    values = {}
    for prevalence in prevalences:
        hits, misses = sensitivity * prevalence, (1 - sensitivity) * prevalence
        alarms, rejections = (1 - specificity) * (1 - prevalence), specificity * (1 - prevalence)
        values[f"{prevalence:g}"] = PredictiveValues(
            ppv=hits / (hits + alarms) if hits + alarms else float("nan"),
            npv=rejections / (rejections + misses) if rejections + misses else float("nan"),
        )
    return values
