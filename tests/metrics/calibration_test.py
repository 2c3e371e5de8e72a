"""Calibration beside scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from jaxcovid.metrics import calibration


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def drawn(n=20_000, temperature=1.0, seed=0):
    """Labels that follow the probabilities of logits, and those of logits times a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, n)
    positive = rng.random(n) < sigmoid(logits)
    return positive, sigmoid(temperature * logits).astype(np.float32)


def test_scores_equal_scikit_learns():
    positive, probability = drawn(500)
    found = calibration.calibration_errors(positive, probability)
    assert found.nll == pytest.approx(log_loss(positive, probability.astype(float)), rel=1e-5)
    assert found.brier == pytest.approx(brier_score_loss(positive, probability), rel=1e-5)


def test_calibration_error_of_equal_bins_by_hand():
    probability = np.array([0.1, 0.1, 0.8, 0.8])
    positive = np.array([False, True, True, True])
    bins = calibration.reliability(positive, probability, bins=2)
    assert bins == [
        calibration.ReliabilityBin(2, pytest.approx(0.1), 0.5),
        calibration.ReliabilityBin(2, pytest.approx(0.8), 1.0),
    ]
    many = calibration.calibration_errors(*drawn())
    assert many.ece < 0.02
    assert calibration.calibration_errors(*drawn(temperature=4)).ece > 0.1
    assert len(calibration.reliability(*drawn(1000))) == calibration.BINS
    assert {part.n for part in calibration.reliability(*drawn(1000))} == {66, 67}
    assert calibration.calibration_errors(positive[:1], probability[:1]).ece == pytest.approx(0.1)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_a_fitted_temperature_undoes_one(temperature):
    positive, probability = drawn(temperature=temperature)
    found = calibration.fit_temperature(
        probability[:, None], positive[:, None].astype(np.float32), exclusive=False
    )
    assert found == pytest.approx(temperature, rel=0.05)
    mended = calibration.apply_temperature(probability[:, None], found, exclusive=False)
    assert calibration.calibration_errors(positive, mended[:, 0]).ece < 0.02
    assert np.array_equal(
        np.argsort(mended[:, 0], kind="stable"), np.argsort(probability, kind="stable")
    )


def test_a_softmax_stays_one_and_unknown_targets_do_not_count():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 2
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    label = np.array([rng.choice(3, p=p) for p in shares])
    sharp = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
    targets = np.eye(3, dtype=np.float32)[label]
    found = calibration.fit_temperature(sharp, targets, exclusive=True)
    assert found == pytest.approx(3, rel=0.1)
    mended = calibration.apply_temperature(sharp, found, exclusive=True)
    np.testing.assert_allclose(mended.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(mended, shares, atol=0.05)

    positive, probability = drawn(2000, temperature=2)
    known = positive[:, None].astype(np.float32)
    padded = np.concatenate([known, np.full((500, 1), -1, np.float32)])
    more = np.concatenate([probability, np.full(500, 0.99, np.float32)])[:, None]
    assert calibration.fit_temperature(more, padded, exclusive=False) == pytest.approx(
        calibration.fit_temperature(probability[:, None], known, exclusive=False), rel=1e-6
    )


def test_separated_validation_images_give_a_bounded_temperature():
    probability = np.array([[0.2], [0.4], [0.6], [0.9]], np.float32)
    targets = np.array([[0], [0], [1], [1]], np.float32)
    found = calibration.fit_temperature(probability, targets, exclusive=False)
    assert 0.04 < found < 20
    assert np.isfinite(calibration.apply_temperature(probability, found, exclusive=False)).all()
    same = calibration.apply_temperature(probability, 1.0, exclusive=False)
    np.testing.assert_allclose(same, probability, rtol=1e-6)


def test_a_few_separated_images_do_not_make_it_sure():
    rng = np.random.default_rng(0)
    few = sigmoid(np.array([-3, -2.5, -2, -1.5, -1, 1, 1.5, 2, 2.5, 3]))[:, None]
    targets = (few > 0.5).astype(np.float32)
    found = calibration.fit_temperature(few.astype(np.float32), targets, exclusive=False)
    assert found > 0.5
    many = sigmoid(rng.normal(0, 4, (400, 1))).astype(np.float32)
    mended = calibration.apply_temperature(many, found, exclusive=False)
    order = np.argsort(many[:, 0], kind="stable")
    assert (np.diff(mended[order, 0])[np.diff(many[order, 0]) > 0] > 0).all(), "no ranking changes"


def test_a_probability_at_another_prevalence_by_hand():
    # Odds of 4 at prevalence 1/2 are 4/99 * 1 at 1/100: 4 / 103.
    assert calibration.at_prevalence(np.array(0.8), 0.5, 0.01) == pytest.approx(4 / 103)
    # Odds 1 at odds 1/3 are 3 at odds 1.
    moved = calibration.at_prevalence(np.array([[0.0, 0.5, 1.0]], np.float32), 0.25, 0.5)
    np.testing.assert_allclose(moved, [[0, 0.75, 1]])
    assert moved.dtype == np.float64
    some = np.linspace(0, 1, 11)
    np.testing.assert_allclose(calibration.at_prevalence(some, 0.3, 0.3), some)
    there = calibration.at_prevalence(some, 0.3, 0.05)
    np.testing.assert_allclose(calibration.at_prevalence(there, 0.05, 0.3), some)


def test_a_moved_probability_is_calibrated_there():
    """Of a positive class that is drawn at one prevalence and thinned to another."""
    positive, probability = drawn(200_000)
    fitted_at = positive.mean()
    kept = ~positive | (np.random.default_rng(1).random(positive.size) < 0.1)
    prevalence = positive[kept].mean()
    moved = calibration.at_prevalence(probability[kept], fitted_at, prevalence)
    assert calibration.calibration_errors(positive[kept], moved).ece < 0.01
    assert calibration.calibration_errors(positive[kept], probability[kept]).ece > 0.1


@pytest.mark.parametrize("prevalence", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_prevalence_is_between_0_and_1(prevalence):
    for pair in ((0.5, prevalence), (prevalence, 0.5)):
        with pytest.raises(ValueError, match="above 0 and below 1"):
            calibration.at_prevalence(np.array(0.5), *pair)


def test_predictive_values_by_bayes_rule():
    found = calibration.predictive_values(0.9, 0.8, (0.01, 0.5))
    assert found["0.01"].ppv == pytest.approx(0.009 / (0.009 + 0.198))
    assert found["0.01"].npv == pytest.approx(0.792 / (0.792 + 0.001))
    assert found["0.5"].ppv == pytest.approx(0.45 / 0.55)
    assert np.isnan(calibration.predictive_values(0, 1, (0.1,))["0.1"].ppv)
