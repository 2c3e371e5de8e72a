"""All scores of a network that screens."""

import dataclasses

import numpy as np
import pytest
import sklearn.metrics
from made_predictions import THRESHOLDS, random_predictions

from jaxcovid.metrics import scores
from jaxcovid.metrics.classes import class_report
from jaxcovid.metrics.predictions import Predictions, per_patient
from jaxcovid.metrics.screening import evaluate_screening


def test_an_image_at_the_threshold_is_positive():
    predictions = Predictions(["a"], ["a"], np.array([[True]]), np.array([[0.5]]), ("COVID-19",))
    found = evaluate_screening(predictions, thresholds={"youden": 0.5}, resamples=2)
    assert found.per_image.operating_points["youden"].confusion.tp == 1


def test_evaluate_gathers_the_scores():
    predictions = random_predictions()
    scores_of_all = evaluate_screening(predictions, thresholds=THRESHOLDS, resamples=100)
    found, patients = scores_of_all.per_image, scores_of_all.per_patient
    positive, probability = predictions.positive, predictions.probability
    called = probability >= 0.455
    assert found.n == 120
    assert found.n_patients == patients.n == len(set(predictions.patients))
    assert found.n_positive == positive.sum()
    assert found.positive_class == "COVID-19"
    assert found.auc.value == pytest.approx(
        sklearn.metrics.roc_auc_score(positive, probability), rel=1e-12
    )
    assert found.auc.low < found.auc.value < found.auc.high
    assert list(found.operating_points) == [*THRESHOLDS, "0.5"]
    point = found.operating_points["youden"]
    assert point.threshold == 0.455
    assert point.confusion.tp == (positive & called).sum()
    assert list(point.ratios) == list(scores.RATIOS)
    assert point.ratios["f"].value == pytest.approx(sklearn.metrics.f1_score(positive, called))
    for name, average in (("pooled", "micro"), ("macro", "macro"), ("weighted", "weighted")):
        expected = sklearn.metrics.precision_recall_fscore_support(
            positive, called, average=average
        )
        values = dataclasses.astuple(getattr(found.averages, name))
        assert values == pytest.approx(expected[:3], rel=1e-12)
    joined = per_patient(predictions)
    assert patients.auc.value == scores.auc(joined.positive, joined.probability)
    assert found.auc_macro is None


def test_evaluate_three_outputs():
    outputs = ("COVID-19", "other pneumonia", "normal")
    predictions = random_predictions(outputs=outputs)
    found = evaluate_screening(predictions, thresholds=THRESHOLDS, resamples=20).per_image
    expected = sklearn.metrics.roc_auc_score(
        predictions.targets, predictions.probabilities, average=None
    )
    values = [found.auc_per_output[name].value for name in outputs]
    assert values == pytest.approx(expected, rel=1e-12)
    assert found.auc_macro.value == pytest.approx(expected.mean(), rel=1e-12)
    assert found.auc == found.auc_per_output["COVID-19"]
    called = predictions.probabilities.argmax(1)
    assert found.classes == class_report(predictions.targets.argmax(1), called, outputs)


def test_evaluate_bears_one_image():
    predictions = random_predictions(n=1, patients=1)
    found = evaluate_screening(predictions, thresholds=THRESHOLDS, resamples=20).per_image
    assert np.isnan(found.auc.value)
    assert found.operating_points["0.5"].ratios["accuracy"].value in (0, 1)


def test_order_changes_nothing():
    predictions = random_predictions()
    shuffled = predictions.part(np.random.default_rng(1).permutation(120))
    first, second = (
        evaluate_screening(each, thresholds=THRESHOLDS, resamples=50)
        for each in (predictions, shuffled)
    )
    points = [each.per_image.operating_points["youden"] for each in (first, second)]
    assert points[0].confusion == points[1].confusion
    for unit in ("per_image", "per_patient"):
        aucs = [dataclasses.astuple(getattr(each, unit).auc) for each in (first, second)]
        assert aucs[0] == pytest.approx(aucs[1], rel=1e-12)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [({}, "there are no thresholds"), ({"youden": 1.5}, r"not in \[0, 1\]")],
)
def test_bad_thresholds_are_refused(thresholds, message):
    with pytest.raises(ValueError, match=message):
        evaluate_screening(random_predictions(), thresholds=thresholds)
