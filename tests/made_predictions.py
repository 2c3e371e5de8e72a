"""Made-up predictions, and what the tests of scores count in them."""

import numpy as np

from jaxcovid.metrics import scores
from jaxcovid.metrics.predictions import Predictions

THRESHOLDS = {"youden": 0.455, "sensitivity_90": 0.3, "sensitivity_95": 0.2}


def random_predictions(n=120, patients=50, outputs=("COVID-19",), seed=0, decimals=2):
    rng = np.random.default_rng(seed)
    kind = rng.integers(max(2, len(outputs)), size=patients)
    patient = rng.integers(patients, size=n)
    targets = np.stack([kind[patient] == column for column in range(len(outputs))], axis=1)
    probabilities = np.round(rng.beta(1 + targets, 2 - targets), decimals).astype(np.float32)
    return Predictions(
        ids=[f"image {index}" for index in range(n)],
        patients=[f"patient {index}" for index in patient],
        targets=targets,
        probabilities=probabilities,
        outputs=outputs,
    )


def ratio(name, positive, called):
    top, bottom = scores.RATIOS[name].parts(positive, called)
    return top.sum() / bottom.sum() if bottom.sum() else np.nan


def called_at(positive, probability, threshold):
    """Counts, recall and specificity at a threshold."""
    called = probability >= threshold
    rates = [ratio(name, positive, called) for name in ("recall", "specificity")]
    return scores.confusion(positive, called), *rates
