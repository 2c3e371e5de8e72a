"""Scores of parts of a split: does it do as well for the old, for women, in every view?"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from jaxcovid.metrics.scores import Predictions, unit_scores

# A score of fewer images of a class than this says nothing.
LEAST_OF_A_CLASS = 10
_AGES = ((0, 40), (40, 60), (60, 80), (80, 130))  # years


def groups_of(record: Mapping[str, Any]) -> dict[str, str]:
    """The groups that an image belongs to: format, and view, sex and age where they are known."""
    starts = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG"}
    found = {"format": next((v for k, v in starts.items() if record["image"].startswith(k)), "")}
    for name in ("view", "sex"):
        found[name] = record.get(name, "")
    for low, high in _AGES:
        if low <= record.get("age", -1) < high:
            found["age"] = f"{low} to {high - 1}" if high < 130 else f"{low} and more"
    return {name: value for name, value in found.items() if value}


def subgroup_scores(
    predictions: Predictions,
    groups: Sequence[Mapping[str, str]],
    *,
    threshold: float,
    resamples: int = 2000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """AUC, sensitivity and specificity of each group that has enough of both classes.

    Args:
      predictions: n images.
      groups: of each image, see `groups_of`.
      threshold: at which an image is called positive.
      resamples: bootstrap resamples of patients.
      seed: of the resamples.

    Returns:
      For each group `group`, `value`, `n`, `n_positive` and the scores `auc`, `recall` and
      `specificity`, None with fewer than `LEAST_OF_A_CLASS` of a class. A group that holds every
      image is left out.
    """
    members: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    for index, of in enumerate(groups):
        for pair in of.items():
            members[pair].append(index)
    positive = predictions.targets[:, 0]
    rows = []
    for (group, value), chosen in sorted(members.items()):
        if len(chosen) == len(groups):
            continue
        count = int(positive[chosen].sum())
        row = {"group": group, "value": value, "n": len(chosen), "n_positive": count}
        if min(count, len(chosen) - count) < LEAST_OF_A_CLASS:
            rows.append({**row, "auc": None, "recall": None, "specificity": None})
            continue
        part = Predictions(
            ids=[predictions.ids[i] for i in chosen],
            patients=[predictions.patients[i] for i in chosen],
            targets=predictions.targets[chosen],
            probabilities=predictions.probabilities[chosen],
            outputs=predictions.outputs,
        )
        found = unit_scores(part, {"youden": threshold}, resamples=resamples, seed=seed)
        point = found["operating_points"]["youden"]
        scores = {"auc": found["auc"], **{k: point[k] for k in ("recall", "specificity")}}
        rows.append({**row, **scores})
    return rows
