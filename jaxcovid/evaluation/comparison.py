"""A network against another on the same images."""

import numpy as np

from jaxcovid.evaluation.result import Comparison
from jaxcovid.evaluation.scored import ScoredSplit
from jaxcovid.metrics import bootstrap
from jaxcovid.metrics.predictions import Predictions
from jaxcovid.metrics.scores import auc


def compare(scored: ScoredSplit, other: ScoredSplit) -> Comparison:
    """How much better a network is than another, resampled together.

    Raises:
      ValueError: the two scored different images, or look for different classes.
    """
    check_same_images(scored.predictions, other.predictions)
    positive = scored.predictions.positive
    theirs, ours = (each.predictions.probability.astype(np.float64) for each in (other, scored))
    return Comparison(
        name=other.predictor.workdir.name,
        auc=auc(positive, theirs),
        difference=bootstrap.auc_difference(scored.predictions.patients, positive, (theirs, ours)),
        path=str(other.predictor.workdir),
        predictions=other.predictions,
    )


def check_same_images(one: Predictions, two: Predictions) -> None:
    """Checks that two networks scored the same images for the same class.

    Raises:
      ValueError: they did not.
    """
    if list(one.ids) != list(two.ids):
        raise ValueError(
            f"the networks scored different images ({len(one.ids)} and {len(two.ids)}); compare "
            "runs of one data set, or give --dataset"
        )
    if one.outputs[0] != two.outputs[0]:
        raise ValueError(
            f"one network looks for {one.outputs[0]}, the other for {two.outputs[0]}; compare runs "
            "of one class"
        )
    if not np.array_equal(one.positive, two.positive):
        raise ValueError("the networks have different labels of the same images (shuffled ones?)")
