"""Scores beside scikit-learn's."""

import sys

import numpy as np
import pytest
import runs
import sklearn.metrics
from made_predictions import ratio

from jaxcovid.metrics import scores


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
@pytest.mark.parametrize("decimals", [0, 1, 16])
def test_auc_is_that_of_scikit_learn(n, decimals):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        positive = rng.permutation(np.arange(n) < rng.integers(1, n))
        score = np.round(rng.random(n), decimals)
        expected = sklearn.metrics.roc_auc_score(positive, score)
        assert scores.auc(positive, score) == pytest.approx(expected, rel=1e-12)


def test_auc_without_one_class_is_nan():
    assert np.isnan(scores.auc(np.ones(3, bool), np.arange(3.0)))
    assert np.isnan(scores.auc(np.zeros(3, bool), np.arange(3.0)))
    assert np.isnan(scores.auc(np.ones(1, bool), np.ones(1)))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 7, 400])
def test_confusion_is_that_of_scikit_learn(n, threshold):
    rng = np.random.default_rng(n)
    positive, probability = rng.random(n) < 0.4, np.round(rng.random(n), 1)
    called = probability >= threshold
    counts = scores.confusion(positive, called)
    tn, fp, fn, tp = sklearn.metrics.confusion_matrix(positive, called, labels=[0, 1]).ravel()
    assert counts == scores.Confusion(tp=tp, fp=fp, tn=tn, fn=fn)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(positive, called),
        "precision": sklearn.metrics.precision_score(positive, called, zero_division=np.nan),
        "recall": sklearn.metrics.recall_score(positive, called, zero_division=np.nan),
        "f": sklearn.metrics.f1_score(positive, called, zero_division=np.nan),
        "specificity": sklearn.metrics.recall_score(~positive, ~called, zero_division=np.nan),
    }
    assert expected.keys() == scores.RATIOS.keys()
    for name, value in expected.items():
        found = ratio(name, positive, called)
        assert found == pytest.approx(value, rel=1e-12, nan_ok=True), name


def test_f_is_the_harmonic_mean():
    positive = np.array([1, 1, 1, 0, 0], bool)
    called = np.array([1, 1, 0, 1, 0], bool)
    p, r, f = (ratio(name, positive, called) for name in ("precision", "recall", "f"))
    assert f == pytest.approx(2 * p * r / (p + r))


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        scores.auc(np.array([True, False]), np.array([np.nan, 0.5]))
    with pytest.raises(ValueError, match="shapes"):
        scores.auc(np.array([True, False]), np.array([0.5]))
    with pytest.raises(ValueError, match="0 and 1"):
        scores.auc(np.array([2, 0]), np.array([0.1, 0.5]))


def test_metrics_know_nobody_and_start_fast():
    """Training imports them: what takes long to import is imported where it is used."""
    code = (
        "import pkgutil, sys, jaxcovid.metrics as package\n"
        "for module in pkgutil.iter_modules(package.__path__, 'jaxcovid.metrics.'):\n"
        "    __import__(module.name)\n"
        "slow = {'sklearn', 'scipy', 'matplotlib', 'jax', 'cv2'} & set(sys.modules)\n"
        "ours = {name for name in sys.modules if name.startswith('jaxcovid.')}\n"
        "print(slow | {name for name in ours if not name.startswith('jaxcovid.metrics')})\n"
    )
    found = runs.run([sys.executable, "-c", code])
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "set()"


def test_average_precision_equals_scikit_learns():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    positive, score = rng.random(50) < 0.3, np.round(rng.random(50), 1)
    expected = average_precision_score(positive, score)
    assert scores.average_precision(positive, score) == pytest.approx(expected)
    assert np.isnan(scores.average_precision(np.zeros(3, bool), score[:3]))
