"""Predictions are checked, and joined patient by patient."""

import numpy as np
import pytest

from jaxcovid.metrics.predictions import Predictions, per_patient


def test_per_patient_is_the_mean_probability_and_any_target():
    predictions = Predictions(
        ids=["a", "b", "c"],
        patients=["2", "1", "2"],
        targets=np.array([[False], [False], [True]]),
        probabilities=np.array([[0.2], [0.5], [0.8]]),
        outputs=("COVID-19",),
    )
    found = per_patient(predictions)
    assert found.ids == found.patients == ["1", "2"]
    np.testing.assert_array_equal(found.targets, [[False], [True]])
    np.testing.assert_allclose(found.probabilities, [[0.5], [0.5]])


def test_per_patient_keeps_one_class_a_patient():
    predictions = Predictions(
        ids=list("abcd"),
        patients=["1", "1", "2", "2"],
        targets=np.array([[0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 1, 0]], bool),
        probabilities=np.full((4, 3), 0.5),
        outputs=("COVID-19", "other pneumonia", "normal"),
    )
    targets = per_patient(predictions).targets
    np.testing.assert_array_equal(targets, [[1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ["a", "b", "a"]}, "'a' 2 times"),
        ({"patients": ["1"]}, "3 ids but 1 patients"),
        ({"targets": np.zeros((3, 2), bool)}, r"targets has shape \(3, 2\)"),
        ({"targets": np.zeros((3, 1))}, "give bool"),
        ({"probabilities": np.zeros(3)}, r"probabilities has shape \(3,\)"),
        ({"probabilities": np.zeros((3, 1), int)}, "give floats"),
        ({"probabilities": np.array([[0.1], [np.nan], [0.2]])}, "1 of 3 images"),
        ({"probabilities": np.array([[-2.5], [0.5], [3.0]])}, r"\[-2.5, 3\].*sigmoid"),
        ({"ids": [], "patients": []}, "need images"),
    ],
)
def test_bad_predictions_are_refused(change, message):
    good = {
        "ids": ["a", "b", "c"],
        "patients": ["1", "1", "2"],
        "targets": np.zeros((3, 1), bool),
        "probabilities": np.full((3, 1), 0.5),
        "outputs": ("COVID-19",),
    }
    Predictions(**good)
    with pytest.raises(ValueError, match=message):
        Predictions(**(good | change))
