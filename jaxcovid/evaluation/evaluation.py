"""A trained network and a split in, an `EvaluationResult` out."""

import dataclasses
from collections.abc import Sequence

from jaxcovid.evaluation.ablation_experiments import score_ablations
from jaxcovid.evaluation.comparison import compare
from jaxcovid.evaluation.ensemble import check_seeds, join
from jaxcovid.evaluation.provenance import read_audit, summarize_run
from jaxcovid.evaluation.published import published_scores
from jaxcovid.evaluation.result import EvaluationResult
from jaxcovid.evaluation.saliency import choose_gallery, masked_images, measure_saliency
from jaxcovid.evaluation.scored import ScoredSplit
from jaxcovid.evaluation.segmentation import measure_segmentation
from jaxcovid.inference.predictor import Predictor
from jaxcovid.metrics.calibration import calibration_of
from jaxcovid.metrics.findings import FindingScores, evaluate_findings
from jaxcovid.metrics.predictions import Predictions
from jaxcovid.metrics.screening import (
    InvolvementScores,
    ScreeningScores,
    evaluate_involvement,
    evaluate_screening,
)
from jaxcovid.metrics.subgroups import subgroup_scores
from jaxcovid.metrics.thresholds import main_name


def check_request(
    predictors: Sequence[Predictor], *, ablations: bool, against: Predictor | None
) -> None:
    """Refuses an evaluation that cannot work, before anything is computed.

    Args:
      predictors: the networks; several are seeds of one run.
      ablations: see `evaluate`.
      against: a network to compare with.

    Raises:
      ValueError: ablations or a comparison of networks for findings, ablations of a network that
        was trained on altered images, or runs that are not seeds of one.
    """
    for predictor in predictors:
        if (ablations or against) and not predictor.task.screens:
            raise ValueError(
                "a network for findings has no ablations and is compared with no other"
            )
        if ablations and predictor.run.ablation != "none":
            raise ValueError(
                "--ablations needs a network that was trained on images as they are; "
                f"{predictor.workdir} was trained with ablation={predictor.run.ablation}"
            )
    if len(predictors) > 1:
        check_seeds(predictors)


def evaluate(
    scored: ScoredSplit,
    command: str,
    *,
    ablations: bool = False,
    against: ScoredSplit | None = None,
    workers: int = 0,
) -> EvaluationResult:
    """The result of one network.

    Args:
      scored: the split.
      command: the command line of the evaluation.
      ablations: score the network on images that lack what should matter as well.
      against: the split, scored by another network to compare with.
      workers: processes that prepare images; 0 uses threads.

    Raises:
      ValueError: another network that scored different images.
    """
    masked = masked_images(scored)
    segmentation, maps = measure_segmentation(scored, masked)
    result = dataclasses.replace(_scores(scored, [scored], command), segmentation=segmentation)
    if not scored.predictor.task.screens:
        return result
    predictions, predictor = scored.predictions, scored.predictor
    return dataclasses.replace(
        result,
        saliency=measure_saliency(scored, masked, maps),
        gallery=choose_gallery(scored),
        ablations=score_ablations(scored, workers=workers) if ablations else None,
        against=compare(scored, against) if against else None,
        calibration=calibration_of(
            predictions.positive,
            scored.uncalibrated,
            predictions.probability,
            temperature=predictor.temperature,
        )
        if predictor.classifies
        else None,
        subgroups=subgroup_scores(
            predictions,
            scored.groups,
            threshold=predictor.thresholds[main_name(predictor.thresholds)],
        )
        if result.screening
        else None,
    )


def evaluate_ensemble(
    tested: Sequence[ScoredSplit], validated: Sequence[ScoredSplit], command: str
) -> EvaluationResult:
    """The result of the mean probability of several runs.

    Args:
      tested: the split, scored by each run.
      validated: the validation split, scored by each run.
      command: the command line of the evaluation.

    Raises:
      ValueError: runs of different images, classes or labels.
    """
    joined, ensemble = join(tested, validated)
    return dataclasses.replace(_scores(joined, tested, command), ensemble=ensemble)


def evaluate_refitted(refitted: ScoredSplit, classifier: str, command: str) -> EvaluationResult:
    """The result of another classifier on a network's features: scores alone, without heatmaps.

    Args:
      refitted: the split, see `refitted.refit`.
      classifier: its name.
      command: the command line of the evaluation.
    """
    return dataclasses.replace(_scores(refitted, [refitted], command), classifier=classifier)


def _scores(scored: ScoredSplit, runs: Sequence[ScoredSplit], command: str) -> EvaluationResult:
    """The sections that every result has."""
    predictor, predictions = scored.predictor, scored.predictions
    trained = predictor.run.dataset.name
    comparable = (
        scored.split == "test" and predictor.run.ablation == "none" and predictor.classifies
    )
    return EvaluationResult(
        split=scored.split,
        scores=_judged(predictor, predictions),
        seen=scored.seen or None,
        without_lungs=scored.without_lungs,
        published=published_scores(trained_on=trained, tested_on=scored.dataset.name)
        if comparable
        else None,
        run=summarize_run(scored, [each.predictor for each in runs], command),
        audit=read_audit(scored.dataset),
        predictions=predictions,
    )


def _judged(
    predictor: Predictor, predictions: Predictions
) -> ScreeningScores | FindingScores | InvolvementScores:
    """The scores of predictions, by what the network is asked."""
    if not predictor.task.screens:
        return evaluate_findings(predictions)
    if predictor.classifies:
        return evaluate_screening(predictions, thresholds=predictor.thresholds)
    return evaluate_involvement(predictions, thresholds=predictor.thresholds)
