"""Thresholds beside a search over all."""

import numpy as np
import pytest
from made_predictions import called_at, random_predictions

from jaxcovid.metrics.thresholds import choose_thresholds


def test_thresholds_of_a_case_worked_by_hand():
    positive = np.array([0, 0, 0, 1, 0, 1, 1, 1, 1, 1], bool)
    probability = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    found = choose_thresholds(positive, probability)
    # J is 5/6 at .45 (misses .3) and 3/4 at .25; all six positives need .25.
    assert found == pytest.approx({"youden": 0.45, "sensitivity_90": 0.25, "sensitivity_95": 0.25})


def test_thresholds_against_a_search_over_all():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 60))
        positive = rng.permutation(np.arange(n) < rng.integers(1, n))
        probability = np.round(rng.random(n), 1 + seed % 3)
        found = choose_thresholds(positive, probability)
        every = [called_at(positive, probability, t) for t in np.linspace(0, 1, 2001)]
        chosen = {key: called_at(positive, probability, t) for key, t in found.items()}
        best = max(recall + specificity for _, recall, specificity in every)
        counts, recall, specificity = chosen["youden"]
        assert recall + specificity == pytest.approx(best)
        equal = [c for c, recall, specificity in every if recall + specificity > best - 1e-9]
        assert counts.tp == max(c.tp for c in equal)
        for key, level in (("sensitivity_90", 0.9), ("sensitivity_95", 0.95)):
            counts, recall, _ = chosen[key]
            assert recall >= level
            fewest = min(c.tp + c.fp for c, recall, _ in every if recall >= level)
            assert counts.tp + counts.fp == fewest


def test_thresholds_bear_rounding():
    predictions = random_predictions()
    positive, probability = predictions.targets[:, 0], predictions.probabilities[:, 0]
    for threshold in choose_thresholds(positive, probability).values():
        near = called_at(positive, probability + 0.004, threshold)
        far = called_at(positive, probability - 0.004, threshold)
        assert near == far


def test_thresholds_of_neighbouring_floats_and_of_constant_scores():
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1))
    found = choose_thresholds(np.array([False, True]), np.array([low, high]))
    called = np.array([low, high]).astype(float) >= found["youden"]
    assert called.tolist() == [False, True]
    constant = choose_thresholds(np.array([False, True]), np.array([0.4, 0.4]))
    assert set(constant.values()) == {0.2}


@pytest.mark.parametrize("positive", [[True, True], [False, False]])
def test_thresholds_need_both_classes(positive):
    with pytest.raises(ValueError, match="both classes"):
        choose_thresholds(np.array(positive), np.array([0.1, 0.2]))
