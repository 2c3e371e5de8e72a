"""One network on several sources: what its scores are worth elsewhere, and what it sees of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tabulate import tabulate

from jaxcovid.evaluation.result import EvaluationResult
from jaxcovid.evaluation.scored import ScoredSplit
from jaxcovid.metrics.interval import Score
from jaxcovid.metrics.source_telling import source_telling


@dataclass(frozen=True)
class SourceScore:
    """The score of a source.

    Attributes:
      dataset: its name.
      trained_on: True if the network was trained on other images of it.
      n: images of the split.
      n_positive: of the positive class.
      auc: of the positive class; None of a network that only segments, if all are of one class.
    """

    dataset: str
    trained_on: bool
    n: int
    n_positive: int
    auc: Score | None


@dataclass(frozen=True)
class AcrossSources:
    """The scores of several sources.

    Attributes:
      split: of each source.
      sources: their scores.
      telling: by "positive" and "negative", how well features tell each source among images of
        this class, see `metrics.source_telling`.
    """

    split: str
    sources: Sequence[SourceScore]
    telling: Mapping[str, Mapping[str, Score]]


def across_sources(
    scored: Sequence[ScoredSplit], results: Sequence[EvaluationResult], *, workers: int = 0
) -> AcrossSources:
    """Compares the sources that one network was evaluated on.

    Args:
      scored: the same split of each source.
      results: of the evaluation of each.
      workers: processes that prepare images; 0 uses threads.
    """
    own = scored[0].predictor.run.dataset.name.split("+")
    scores = [
        SourceScore(
            dataset=each.dataset.name,
            trained_on=each.dataset.name in own,
            n=result.per_image.n,
            n_positive=int(each.predictions.positive.sum()),
            auc=result.auc,
        )
        for each, result in zip(scored, results, strict=True)
    ]
    return AcrossSources(scored[0].split, scores, _telling(scored, workers))


def _telling(scored: Sequence[ScoredSplit], workers: int) -> dict[str, dict[str, Score]]:
    features = np.concatenate([s.predictor.features(s.shown, workers=workers) for s in scored])
    positive = np.concatenate([s.predictions.positive for s in scored])
    sources, patients = [], []
    for each in scored:
        sources += [each.dataset.name] * len(each.source)
        patients += [f"{each.dataset.name}/{name}" for name in each.predictions.patients]
    telling = {}
    for name, chosen in (("positive", positive), ("negative", ~positive)):
        rows = np.flatnonzero(chosen)
        telling[name] = source_telling(
            features[rows], [sources[i] for i in rows], [patients[i] for i in rows]
        )
    return telling


def as_table(across: AcrossSources) -> str:
    """The scores as a table, a source a line."""
    rows = [
        (
            source.dataset,
            "yes" if source.trained_on else "no",
            source.n,
            source.n_positive,
            _interval(source.auc),
            *(_interval(across.telling[name].get(source.dataset)) for name in across.telling),
        )
        for source in across.sources
    ]
    names = [f"AUC of the source, {name} images" for name in across.telling]
    header = ("source", "trained on", "images", "positive", "AUC", *names)
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def _interval(score: Score | None) -> str:
    return "" if score is None or np.isnan(score.value) else score.text()
