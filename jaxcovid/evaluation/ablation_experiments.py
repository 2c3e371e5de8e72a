"""Ablation experiments: how well a network does on images that lack what should matter."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxcovid.data.ablations import ABLATIONS, Ablation
from jaxcovid.data.datasets import Record
from jaxcovid.evaluation.result import AblationScore
from jaxcovid.evaluation.scored import ScoredSplit
from jaxcovid.metrics import bootstrap


@dataclass(frozen=True)
class _Part(Sequence[Any]):
    """Some records of a source, read one by one."""

    source: Sequence[Record]
    chosen: Sequence[int]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: Any) -> Any:
        return self.source[self.chosen[index]]


def score_ablations(scored: ScoredSplit, *, workers: int = 0) -> list[AblationScore]:
    """The AUC on altered images, beside that on the same images unaltered.

    An ablation that needs a mask of the lungs (`lungs_only`) is scored on the images that have one.

    Args:
      scored: the split.
      workers: processes that prepare images; 0 uses threads.
    """
    rows = []
    for name in ABLATIONS:
        chosen = _images_for(name, scored)
        positive = scored.predictions.positive[chosen]
        if not 0 < positive.sum() < positive.size:
            continue
        part = _Part(scored.source, chosen)
        altered = scored.predictor.score(part, ablation=Ablation(name), workers=workers)
        scores = bootstrap.intervals(
            [scored.predictions.patients[i] for i in chosen],
            aucs={
                "auc": (positive, altered[:, 0].astype(np.float64)),
                "unaltered": (positive, scored.uncalibrated[chosen].astype(np.float64)),
            },
            ratios={},
        )
        rows.append(AblationScore(name, len(chosen), scores["auc"], scores["unaltered"]))
    return rows


def _images_for(ablation: str, scored: ScoredSplit) -> list[int]:
    """Indices of the images that an ablation can be applied to."""
    if ablation != "lungs_only":
        return list(range(len(scored.source)))
    if scored.predictor.run.volume_slices:
        return []  # a mask may be of some of the slices alone
    return list(scored.masks(range(len(scored.source)), "lungs"))
