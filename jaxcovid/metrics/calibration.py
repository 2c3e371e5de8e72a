"""Do probabilities mean what they say? Temperature, likelihood, Brier score and calibration error.

A temperature divides the logits of all outputs (Guo et al. 2017, arXiv:1706.04599): it changes no
ranking. It is fitted on validation and never on what is scored, against targets that are smoothed
as Platt did (1999), so that a few images which happen to be told apart do not make it sure.
"""

from collections.abc import Sequence

import numpy as np

BINS = 15
_CLIP = 1e-7
_LOG_RANGE = (-3.0, 3.0)  # of the temperature: 0.05 to 20


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
    logits = _logits(probabilities, exclusive=exclusive) / temperature
    if exclusive:
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        return exponentials / exponentials.sum(1, keepdims=True)
    return 1 / (1 + np.exp(-logits))


def fit_temperature(probabilities: np.ndarray, targets: np.ndarray, *, exclusive: bool) -> float:
    """The temperature of highest likelihood of smoothed targets, between 0.05 and 20.

    Of n positive images a target is (n + 1) / (n + 2) instead of 1, of n negative ones 1 / (n + 2)
    instead of 0.

    Args:
      probabilities: float [n, outputs] of validation images.
      targets: float [n, outputs], 1, 0 or below 0 where not known.
      exclusive: see `apply_temperature`.
    """
    from scipy.optimize import minimize_scalar

    positives, negatives = ((targets == side).sum(0) for side in (1, 0))
    smooth = np.where(targets > 0.5, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    if exclusive:
        smooth = smooth / smooth.sum(1, keepdims=True)
    smooth = np.where(targets < 0, targets, smooth)

    def misfit(log_temperature: float) -> float:
        found = apply_temperature(probabilities, np.exp(log_temperature), exclusive=exclusive)
        return loss(found, smooth, exclusive=exclusive)

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
      targets: float [n, outputs], 1, 0 or below 0 where not known.
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


def reliability(
    positive: np.ndarray, probability: np.ndarray, *, bins: int = BINS
) -> list[dict[str, float | int]]:
    """Bins of equally many images by probability: `n`, mean `probability`, `share` of positives.

    Args:
      positive: bool [n].
      probability: float [n] of the positive class.
      bins: fewer are made of fewer images.
    """
    order = np.argsort(probability, kind="stable")
    return [
        {
            "n": int(part.size),
            "probability": float(probability[part].mean()),
            "share": float(positive[part].mean()),
        }
        for part in np.array_split(order, min(bins, order.size))
    ]


def calibration(positive: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """`nll` (nats), `brier` and `ece`, the expected calibration error over `BINS` equal bins.

    Args:
      positive: bool [n].
      probability: float [n] of the positive class.
    """
    probability = np.asarray(probability, np.float64)
    parts = reliability(positive, probability)
    return {
        "nll": loss(probability[:, None], positive[:, None].astype(float), exclusive=False),
        "brier": float(np.square(probability - positive).mean()),
        "ece": sum(part["n"] * abs(part["probability"] - part["share"]) for part in parts)
        / positive.size,
    }


def predictive_values(
    sensitivity: float, specificity: float, prevalences: Sequence[float]
) -> dict[str, dict[str, float]]:
    """Predictive values by Bayes' rule: prevalence -> `ppv`, `npv`; 0/0 is NaN."""
    found = {}
    for prevalence in prevalences:
        hits, misses = sensitivity * prevalence, (1 - sensitivity) * prevalence
        alarms, rejections = (1 - specificity) * (1 - prevalence), specificity * (1 - prevalence)
        found[f"{prevalence:g}"] = {
            "ppv": hits / (hits + alarms) if hits + alarms else float("nan"),
            "npv": rejections / (rejections + misses) if rejections + misses else float("nan"),
        }
    return found
