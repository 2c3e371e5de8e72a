import dataclasses
import time

import numpy as np
import pytest
import sklearn.metrics

from jaxcovid.metrics import bootstrap


def simulated(rng, patients, distance, images=(1, 4)):
    """Patients of several images; scores are normal, correlated .6 within a patient."""
    count = rng.integers(images[0], images[1] + 1, patients)
    patient = np.repeat(np.arange(patients), count)
    positive = (rng.random(patients) < 0.5)[patient]
    shared, own = rng.standard_normal(patients)[patient], rng.standard_normal(patient.size)
    score = np.sqrt(0.6) * shared + np.sqrt(0.4) * own + distance * positive
    return patient, positive, score


def ratios(positive, called):
    one = np.ones(positive.size)
    return {
        "accuracy": (positive == called, one),
        "precision": (positive & called, called),
        "recall": (positive & called, positive),
        "f": (2 * (positive & called), positive.astype(int) + called),
        "specificity": (~positive & ~called, ~positive),
    }


@pytest.mark.parametrize(("patients", "distance"), [(100, 1.4), (30, 3.0)])
def test_intervals_hold_the_truth_in_95_percent(patients, distance):
    rng = np.random.default_rng(0)
    _, positive, score = simulated(rng, 400_000, distance)
    truth = {"auc": sklearn.metrics.roc_auc_score(positive, score)}
    for name, (top, bottom) in ratios(positive, score >= distance / 2).items():
        truth[name] = top.sum() / bottom.sum()
    draws = 1000
    held = dict.fromkeys(truth, 0)
    for draw in range(draws):
        patient, positive, score = simulated(rng, patients, distance)
        found = bootstrap.intervals(
            patient,
            aucs={"auc": (positive, score)},
            ratios=ratios(positive, score >= distance / 2),
            resamples=400,
            seed=draw,
        )
        for name, value in truth.items():
            held[name] += found[name].low <= value <= found[name].high
    coverage = {name: count / draws for name, count in held.items()}
    assert min(coverage.values()) >= 0.93, coverage
    if patients == 100:  # with 30 one or two patients hold all the errors, and longer is right
        assert max(coverage.values()) <= 0.97, coverage


def test_equals_a_loop_over_copied_images():
    rng = np.random.default_rng(1)
    patient, positive, score = simulated(rng, 25, 1.0)
    score = np.round(score, 1)
    called = score >= 0.5
    loop = {"auc": [], **{name: [] for name in ratios(positive, called)}}
    resamples = np.concatenate(list(bootstrap.multiplicities(25, 60, seed=3, rows=7)))
    for row in resamples.astype(int):
        y, s, c = (np.repeat(x, row[patient]) for x in (positive, score, called))
        loop["auc"].append(sklearn.metrics.roc_auc_score(y, s))
        for name, (top, bottom) in ratios(y, c).items():
            loop[name].append(top.sum() / bottom.sum())
    np.testing.assert_allclose(
        bootstrap.weighted_auc(positive, score, resamples[:, patient]), loop["auc"], rtol=1e-12
    )
    found = bootstrap.intervals(
        [f"{index:02}" for index in patient],  # patients are numbered in the order of their names
        aucs={"auc": (positive, score)},
        ratios=ratios(positive, called),
        resamples=60,
        seed=3,
    )
    for name, values in loop.items():
        value = found[name].value
        half = 2.0638986 * np.std(values, ddof=1) * np.sqrt(25 / 24) / (value * (1 - value))
        expected = 1 / (1 + np.exp(-np.log(value / (1 - value)) - [-half, half]))
        np.testing.assert_allclose([found[name].low, found[name].high], expected, rtol=1e-6)


def test_resamples_do_not_depend_on_the_chunks_and_every_patient_counts_alike():
    whole = np.concatenate(list(bootstrap.multiplicities(13, 500, seed=0, rows=500)))
    parts = np.concatenate(list(bootstrap.multiplicities(13, 500, seed=0, rows=17)))
    np.testing.assert_array_equal(whole, parts)
    assert whole.shape == (500, 13)
    assert (whole.sum(axis=1) == 13).all()
    np.testing.assert_allclose(whole.mean(axis=0), 1, atol=0.2)
    np.testing.assert_allclose(whole.var(), 12 / 13, atol=0.1)


def test_order_of_the_images_changes_nothing():
    rng = np.random.default_rng(2)
    patient, positive, score = simulated(rng, 40, 1.0)
    names = np.array([f"patient {index}" for index in patient])
    order = rng.permutation(patient.size)
    both = [
        bootstrap.intervals(
            names[rows],
            aucs={"auc": (positive[rows], score[rows])},
            ratios=ratios(positive[rows], score[rows] >= 0.5),
            resamples=100,
        )
        for rows in (slice(None), order)
    ]
    for name, interval in both[0].items():
        other = dataclasses.astuple(both[1][name])
        assert other == pytest.approx(dataclasses.astuple(interval), rel=1e-12)


def test_several_columns_give_the_mean_auc():
    rng = np.random.default_rng(3)
    positive = np.eye(3, dtype=bool)[rng.integers(3, size=50)]
    score = rng.random((50, 3)) + positive
    found = bootstrap.intervals(
        range(50), aucs={"macro": (positive, score)}, ratios={}, resamples=50
    )
    expected = sklearn.metrics.roc_auc_score(positive, score, average="macro")
    assert found["macro"].value == pytest.approx(expected, rel=1e-12)


def test_grouping_widens_the_interval():
    positive = np.repeat([True, False] * 10, 10)
    score = np.repeat(np.random.default_rng(4).random(20), 10) + 0.3 * positive
    grouped, alone = (
        bootstrap.intervals(patients, aucs={"auc": (positive, score)}, ratios={}, resamples=200)
        for patients in (np.repeat(np.arange(20), 10), np.arange(200))
    )
    widths = [found["auc"].high - found["auc"].low for found in (grouped, alone)]
    assert widths[0] > 2 * widths[1]


def test_flawless_scores_have_a_bound_below_one():
    positive = np.repeat([True, False, False], 4)
    found = bootstrap.intervals(
        np.arange(12),
        aucs={"auc": (positive, positive.astype(float))},
        ratios={"recall": (positive, positive), "error": (~positive & False, positive)},
        resamples=50,
    )
    for name in ("auc", "recall"):
        assert found[name].value == found[name].high == 1
        assert found[name].low == pytest.approx(0.025**0.25)
    assert found["error"].value == found["error"].low == 0
    assert found["error"].high == pytest.approx(1 - 0.025**0.25)


def test_undefined_resamples_are_left_out_and_counted():
    positive = np.array([True] + [False] * 5)
    found = bootstrap.intervals(
        range(6),
        aucs={"auc": (positive, np.array([0.5, 0.1, 0.2, 0.6, 0.3, 0.4]))},
        ratios={"none": (np.zeros(6), np.zeros(6))},
        resamples=1000,
    )
    assert found["auc"].left_out == pytest.approx(1000 * (5 / 6) ** 6, abs=60)
    assert 0 < found["auc"].low < 0.8 < found["auc"].high < 1
    assert found["none"].left_out == 1000
    none = found["none"]
    assert np.isnan([none.value, none.low, none.high]).all()


def test_one_patient_gives_no_interval():
    found = bootstrap.intervals(
        ["a"] * 4,
        aucs={"auc": (np.array([1, 0, 1, 0], bool), np.array([0.1, 0.2, 0.3, 0.4]))},
        ratios={},
        resamples=10,
    )
    assert found["auc"].value == 0.25
    assert np.isnan(found["auc"].low)
    assert np.isnan(found["auc"].high)


def test_too_little_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap.intervals(["a"], aucs={}, ratios={}, resamples=1)
    with pytest.raises(ValueError, match="no image"):
        bootstrap.intervals([], aucs={}, ratios={})


def test_ten_thousand_images_take_seconds():
    rng = np.random.default_rng(5)
    positive, score = rng.random(10_000) < 0.4, rng.random(10_000)
    start = time.perf_counter()
    bootstrap.intervals(
        rng.integers(5000, size=10_000),
        aucs={"auc": (positive, score)},
        ratios=ratios(positive, score >= 0.5),
        resamples=2000,
    )
    assert time.perf_counter() - start < 20  # about one on a quiet machine


def test_the_difference_of_two_networks_is_that_of_their_aucs():
    rng = np.random.default_rng(0)
    positive = rng.random(200) < 0.5
    good = positive + rng.normal(size=200)
    bad = 0.2 * positive + rng.normal(size=200)
    patients = [str(i // 2) for i in range(200)]
    found = bootstrap.auc_difference(patients, positive, (bad, good), resamples=500)
    ones = np.ones((1, 200))
    expected = (bootstrap.weighted_auc(positive, s, ones)[0] for s in (good, bad))
    assert found.value == pytest.approx(next(expected) - next(expected))
    assert 0 < found.low < found.value < found.high
    same = bootstrap.auc_difference(patients, positive, (good, good), resamples=50)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    # Paired: two networks that err together differ less surely than two that do not.
    near = good + 0.01 * rng.normal(size=200)
    close = bootstrap.auc_difference(patients, positive, (good, near), resamples=500)
    assert close.high - close.low < 0.2 * (found.high - found.low)


def test_what_is_not_known_does_not_count():
    rng = np.random.default_rng(0)
    positive, score = rng.random(80) < 0.5, rng.random(80)
    known = rng.random(80) < 0.7
    patients = np.array([str(i) for i in range(80)])
    masked = bootstrap.intervals(
        patients, aucs={"a": (positive, score)}, ratios={}, known={"a": known}, resamples=50
    )["a"]
    alone = bootstrap.weighted_auc(positive[known], score[known], np.ones((1, known.sum())))[0]
    assert masked.value == pytest.approx(alone)
