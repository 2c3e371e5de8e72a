"""The scores of an evaluation as lines of the log."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import t

from jaxcovid.evaluation.result import EvaluationResult
from jaxcovid.evaluation.segmentation_result import Segmentation
from jaxcovid.metrics.findings import FindingScores
from jaxcovid.metrics.interval import Score
from jaxcovid.metrics.screening import UnitScores

_OF_INVOLVEMENT = "AUC of the share of the lungs involved"


def summarize(result: EvaluationResult) -> str:
    """What was evaluated, then a score a line."""
    unit = result.per_image
    lines = [
        f"{result.split} on {result.run.dataset}, {unit.n} {result.run.examples} of "
        f"{unit.n_patients} patients, checkpoint {result.run.step}"
        + (f", {result.classifier} on its features:" if result.classifier else ":")
    ]
    lines += [f"  {name:<16} {_with_interval(score)}" for name, score in _scores(result)]
    if result.without_lungs is not None:
        lines.append(
            f"  no lungs were found in {result.without_lungs} images, which were shown whole"
        )
    if result.ensemble:
        runs = result.ensemble
        lines.insert(
            0,
            f"AUCs of {len(runs.aucs)} runs: {_listed(runs.aucs)}; mean {runs.mean:.3f}, "
            f"deviation {runs.deviation:.3f}",
        )
    return "\n".join(lines)


def summarize_shuffles(aucs: Sequence[float]) -> str:
    """The mean AUC of runs on shuffled labels, each on labels of its own, with a t interval."""
    mean = float(np.mean(aucs))
    half = t.ppf(0.975, len(aucs) - 1) * np.std(aucs, ddof=1) / np.sqrt(len(aucs))
    return (
        f"AUCs of {len(aucs)} shuffles: {_listed(aucs)}; mean {mean:.3f} (95 % interval "
        f"{mean - half:.3f} to {mean + half:.3f})"
    )


def _scores(result: EvaluationResult) -> Iterator[tuple[str, Score]]:
    scores = result.per_image
    masks = list(_of_masks(result.segmentation)) if result.segmentation else []
    if result.only_segments:
        yield from masks
    if isinstance(scores, UnitScores):
        yield _OF_INVOLVEMENT if result.only_segments else "AUC", scores.auc
        yield from scores.operating_points[scores.main_point].ratios.items()
    elif isinstance(scores, FindingScores):
        yield "AUC", scores.auc
        yield from scores.auc_per_output.items()
    if not result.only_segments:
        yield from masks
    for group in result.subgroups or ():
        if group.group == "source" and group.auc:
            yield f"AUC, {group.value}", group.auc
    for row in result.ablations or ():
        yield f"AUC, {row.ablation}", row.auc
    if result.against:
        yield f"AUC beyond {result.against.name}", result.against.difference


def _of_masks(masks: Segmentation) -> Iterator[tuple[str, Score]]:
    for structure, scores in masks.scores.items():
        yield f"Dice, {structure}", scores.dice
    if masks.auc:
        yield _OF_INVOLVEMENT, masks.auc
    if masks.involvement_error and masks.grade_agreement:
        yield "error of the share involved", masks.involvement_error
        yield "patients with the right grade", masks.grade_agreement


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _with_interval(score: Score) -> str:
    if np.isnan(score.value):
        return "undefined"
    if not score.has_interval:
        return f"{score.value:.3f}"
    return f"{score.value:.3f}  (95 % interval {score.low:.3f} to {score.high:.3f})"
