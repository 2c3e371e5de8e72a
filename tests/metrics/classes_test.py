"""The report class by class beside scikit-learn's."""

import numpy as np
import pytest

from jaxcovid.metrics.classes import average_classes, class_report


def test_three_classes_equal_scikit_learns_report():
    from sklearn.metrics import classification_report, confusion_matrix

    rng = np.random.default_rng(0)
    names = ("COVID-19", "other pneumonia", "normal")
    truth = rng.integers(0, 3, 90)
    probabilities = rng.random((90, 3))
    probabilities[np.arange(45), truth[:45]] += 1
    called = probabilities.argmax(1)
    found = class_report(truth, called, names)
    expected = classification_report(truth, called, target_names=names, output_dict=True)
    for row, name in zip(confusion_matrix(truth, called), names, strict=True):
        assert list(found[name].called.values()) == row.tolist()
        for key, theirs in (("precision", "precision"), ("recall", "recall"), ("f", "f1-score")):
            assert getattr(found[name], key) == pytest.approx(expected[name][theirs])
    averages = average_classes(found)
    assert averages.macro.f == pytest.approx(expected["macro avg"]["f1-score"])
    assert averages.weighted.f == pytest.approx(expected["weighted avg"]["f1-score"])
    assert averages.pooled.recall == pytest.approx(expected["accuracy"])
    one = class_report(np.array([0]), np.array([0]), names)
    assert np.isnan(one["normal"].recall)
    assert one["COVID-19"].f == 1
    # An undefined class makes the averages undefined; scikit-learn would leave it out.
    assert np.isnan(average_classes(one).macro.f)
