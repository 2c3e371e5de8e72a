"""What is compared or called a test must be one."""

import numpy as np
import pytest

from jaxcovid.evaluation.scored import Scored
from jaxcovid.evaluation.sections import against_section
from jaxcovid.metrics.scores import Predictions


def scored(ids, positive, *, dataset=None, seed=0, output="COVID-19"):
    """A network's made-up answers."""
    probability = np.random.default_rng(seed).random(len(ids))
    predictions = Predictions(
        ids=ids,
        patients=ids,
        targets=np.asarray(positive, bool)[:, None],
        probabilities=probability[:, None],
        outputs=(output,),
    )
    return Scored(None, dataset, "test", [], predictions, probability)


def test_networks_are_compared_on_the_same_question_alone():
    ids, positive = list("abcdefgh"), [0, 1] * 4
    one = scored(ids, positive)
    found = against_section(one, scored(ids, positive, seed=1))
    assert found["difference"]["low"] <= found["difference"]["value"]
    for other, message in (
        (scored(ids[::-1], positive), "other images"),
        (scored(ids, positive, output="normal"), "the other for normal"),
        (scored(ids, positive[::-1]), "other labels"),
    ):
        with pytest.raises(ValueError, match=message):
            against_section(one, other)
