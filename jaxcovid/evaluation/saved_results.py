"""Results that were written before, read back to be set beside each other."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxcovid.evaluation.comparison import check_same_images
from jaxcovid.metrics import bootstrap
from jaxcovid.metrics.interval import Score
from jaxcovid.metrics.predictions import Predictions


@dataclass(frozen=True)
class SavedResult:
    """What an evaluation of a network that screens left in its folder.

    Attributes:
      metrics: content of `metrics.json`.
      predictions: calibrated, of the positive class.
    """

    metrics: dict[str, Any]
    predictions: Predictions

    @classmethod
    def read(cls, folder: Path) -> "SavedResult":
        """Reads the result in a folder.

        Raises:
          OSError: it has none.
          ValueError: a file is damaged.
        """
        metrics = json.loads((folder / "metrics.json").read_text())
        if "positive_class" not in metrics:
            raise ValueError(f"{folder} is no result of a network that screens")
        with (folder / "predictions.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        predictions = Predictions(
            ids=[row["id"] for row in rows],
            patients=[row["patient"] for row in rows],
            targets=np.array([[row["label"] == "1"] for row in rows]),
            probabilities=np.array([[float(row["probability"])] for row in rows]),
            outputs=(metrics["positive_class"],),
        )
        return cls(metrics, predictions)

    @property
    def auc(self) -> Score:
        """Over images."""
        return score_of(self.metrics["auc"])


def score_of(content: Mapping[str, Any]) -> Score:
    """A score as `metrics.json` has it; what is undefined becomes NaN."""
    names = ("value", "low", "high")
    value, low, high = (np.nan if content[name] is None else content[name] for name in names)
    return Score(value, low, high)


def auc_difference(one: SavedResult, other: SavedResult) -> Score:
    """The AUC of one less that of the other on the same images, resampled together.

    Raises:
      ValueError: they scored different images, or look for different classes.
    """
    check_same_images(one.predictions, other.predictions)
    scores = (other.predictions.probability, one.predictions.probability)
    return bootstrap.auc_difference(one.predictions.patients, one.predictions.positive, scores)
