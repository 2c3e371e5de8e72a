"""The scores of a network for several findings, which an image may have together."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxcovid.metrics import bootstrap
from jaxcovid.metrics.interval import IntervalMethod, Score
from jaxcovid.metrics.predictions import Predictions


@dataclasses.dataclass(frozen=True)
class Counts:
    """Images with a finding, without it, and of which it is unknown."""

    positive: int
    negative: int
    unknown: int


@dataclasses.dataclass(frozen=True)
class FindingScores:
    """Scores of a network for several findings, per image.

    Attributes:
      n: images.
      n_patients: patients.
      auc: mean over the findings that are both present and absent.
      auc_per_output: of each finding.
      counts: of each finding.
      intervals: how they were computed.
    """

    n: int
    n_patients: int
    auc: Score
    auc_per_output: Mapping[str, Score]
    counts: Mapping[str, Counts]
    intervals: IntervalMethod


def evaluate_findings(
    predictions: Predictions, *, resamples: int = 2000, seed: int = 0
) -> FindingScores:
    """The scores of a network for findings, image by image.

    Args:
      predictions: n images; one may have several findings.
      resamples: bootstrap resamples of patients.
      seed: of the resamples.
    """
    targets, probabilities = predictions.targets, predictions.probabilities.astype(np.float64)
    known = predictions.counted
    everything = range(targets.shape[1])
    both = [c for c in everything if np.unique(targets[known[:, c], c]).size == 2]
    both = both or list(everything)
    mean = ""  # no name of a finding
    aucs = {mean: (targets[:, both], probabilities[:, both])}
    counted, counts = {mean: known[:, both]}, {}
    for column, output in enumerate(predictions.outputs):
        target, use = targets[:, column], known[:, column]
        aucs[output], counted[output] = (target, probabilities[:, column]), use
        counts[output] = Counts(
            positive=int((target & use).sum()),
            negative=int((~target & use).sum()),
            unknown=int((~use).sum()),
        )
    scores = bootstrap.intervals(
        predictions.patients, aucs=aucs, ratios={}, known=counted, resamples=resamples, seed=seed
    )
    return FindingScores(
        n=len(predictions.ids),
        n_patients=len(set(predictions.patients)),
        auc=scores.pop(mean),
        auc_per_output=scores,
        counts=counts,
        intervals=IntervalMethod(resamples=resamples, seed=seed),
    )
