"""Operating points: thresholds chosen on validation images, never on what is scored."""

from collections.abc import Mapping

import numpy as np

from jaxcovid.metrics.predictions import check_scores

SENSITIVITIES = {"sensitivity_90": 90, "sensitivity_95": 95}  # name -> per cent
# Of the share of the lungs that is involved, where all validation images are of one class and
# nothing can be chosen: above the few pixels that a network marks in healthy lungs.
INVOLVED = {"involved": 0.01}


def main_name(thresholds: Mapping[str, float]) -> str:
    """The name of the threshold that is used unless another is asked for."""
    return "youden" if "youden" in thresholds else next(iter(thresholds))


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
    positive, probability = check_scores(positive, probability)
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
