"""The mean of the probabilities of several runs that differ in their seed."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxcovid.evaluation.comparison import check_same_images
from jaxcovid.evaluation.result import Ensemble
from jaxcovid.evaluation.scored import ScoredSplit
from jaxcovid.inference.predictor import Predictor
from jaxcovid.metrics.predictions import Predictions
from jaxcovid.metrics.scores import auc
from jaxcovid.metrics.thresholds import choose_thresholds


def check_seeds(predictors: Sequence[Predictor]) -> None:
    """Checks that runs are seeds of one: same data set, outputs and slices of a volume.

    Raises:
      ValueError: they are not, or are networks for findings.
    """
    facts = [
        (each.run.dataset.name, each.task.outputs, each.run.volume_slices) for each in predictors
    ]
    if len(set(facts)) > 1:
        raise ValueError(f"the runs are not seeds of one: {facts}")
    if not predictors[0].task.screens:
        raise ValueError("networks for findings make no ensemble; evaluate them one by one")


def join(
    tested: Sequence[ScoredSplit], validated: Sequence[ScoredSplit]
) -> tuple[ScoredSplit, Ensemble]:
    """The mean of the probabilities of several runs, with thresholds chosen on validation.

    Args:
      tested: the split, scored by each run.
      validated: the validation split, scored by each run.

    Raises:
      ValueError: runs of different images, classes or labels.
    """
    for other in tested[1:]:
        check_same_images(tested[0].predictions, other.predictions)
    chosen_on = _mean(validated)
    thresholds = choose_thresholds(chosen_on.positive, chosen_on.probability)
    predictions = _mean(tested)
    joined = dataclasses.replace(
        tested[0],
        predictor=dataclasses.replace(tested[0].predictor, thresholds=thresholds),
        predictions=predictions,
        uncalibrated=predictions.probability,
        seen=max((each.seen for each in tested), key=lambda seen: seen.images_of_patients),
    )
    aucs = [auc(each.predictions.positive, each.predictions.probability) for each in tested]
    return joined, Ensemble(
        names=[str(each.predictor.workdir) for each in tested],
        aucs=aucs,
        mean=float(np.mean(aucs)),
        deviation=float(np.std(aucs, ddof=1)),
        predictions=[each.predictions for each in tested],
    )


def _mean(scored: Sequence[ScoredSplit]) -> Predictions:
    probabilities = np.mean([each.predictions.probabilities for each in scored], 0)
    return dataclasses.replace(scored[0].predictions, probabilities=probabilities)
