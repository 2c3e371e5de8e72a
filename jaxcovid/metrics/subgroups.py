"""Scores of parts of a split: does it do as well for the old, for women, in every view?"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcovid.metrics.interval import Score
from jaxcovid.metrics.predictions import Predictions
from jaxcovid.metrics.screening import unit_scores

# A score of fewer images of a class than this says nothing.
LEAST_OF_A_CLASS = 10
_AGES = ((0, 40), (40, 60), (60, 80), (80, 130))  # years


@dataclasses.dataclass(frozen=True)
class Subgroup:
    """Scores of the images that share a property.

    Attributes:
      group: the property (`view`, ...).
      value: that they share.
      n: images.
      n_positive: of the positive class.
      auc: None, as the others, with fewer than `LEAST_OF_A_CLASS` images of a class.
      recall: at the threshold.
      specificity: at the threshold.
    """

    group: str
    value: str
    n: int
    n_positive: int
    auc: Score | None
    recall: Score | None
    specificity: Score | None


def groups_of(record: Mapping[str, Any]) -> dict[str, str]:
    """The groups that an image belongs to: format, and source, view, sex and age where known."""
    starts = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG"}
    groups = {"format": next((v for k, v in starts.items() if record["image"].startswith(k)), "")}
    for name in ("source", "view", "sex"):
        groups[name] = record.get(name, "")
    for low, high in _AGES:
        if low <= record.get("age", -1) < high:
            groups["age"] = f"{low} to {high - 1}" if high < 130 else f"{low} and more"
    return {name: value for name, value in groups.items() if value}


def subgroup_scores(
    predictions: Predictions,
    groups: Sequence[Mapping[str, str]],
    *,
    threshold: float,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Subgroup]:
    """AUC, sensitivity and specificity of each group that has enough images of both classes.

    Args:
      predictions: n images.
      groups: of each image, see `groups_of`.
      threshold: at which an image is called positive.
      resamples: bootstrap resamples of patients.
      seed: of the resamples.

    Returns:
      The groups that hold some of the images but not all.
    """
    members: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    for index, own in enumerate(groups):
        for pair in own.items():
            members[pair].append(index)
    rows = []
    for (group, value), chosen in sorted(members.items()):
        if len(chosen) == len(groups):
            continue
        count = int(predictions.positive[chosen].sum())
        row = (group, value, len(chosen), count)
        if min(count, len(chosen) - count) < LEAST_OF_A_CLASS:
            rows.append(Subgroup(*row, auc=None, recall=None, specificity=None))
            continue
        scores = unit_scores(
            predictions.part(chosen), {"youden": threshold}, resamples=resamples, seed=seed
        )
        ratios = scores.operating_points["youden"].ratios
        rows.append(Subgroup(*row, scores.auc, ratios["recall"], ratios["specificity"]))
    return rows
