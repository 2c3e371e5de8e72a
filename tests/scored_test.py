"""What is compared or called a test must be one."""

import numpy as np
import pytest
from xray_trees import make_covid_chestxray

from jaxcovid import prepare
from jaxcovid.evaluation.metrics import Predictions
from jaxcovid.scored import Scored, check_held_out
from jaxcovid.sections import against_section


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


def test_a_split_that_was_trained_on_is_no_external_test(tmp_path):
    source = str(make_covid_chestxray(tmp_path / "films"))
    by_patient, by_film = (
        prepare.build(name, tmp_path / "data", source=source)
        for name in ("covid_chestxray", "covid_chestxray/paper")
    )
    test = by_patient.source("test")
    ids = [test[i]["id"] for i in range(len(test))]
    asked = scored(ids, np.arange(len(ids)) % 2, dataset=by_patient)
    check_held_out(asked, by_patient)
    with pytest.raises(
        ValueError, match=rf"of {len(ids)} images of covid_chestxray/patient were in"
    ):
        check_held_out(asked, by_film)


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
