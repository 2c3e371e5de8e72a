import numpy as np
import pytest

from jaxcovid.metrics.source_telling import source_telling


def images(shift, *, n=200, per_patient=4):
    """Features of two sources, of which the second is shifted along one of eight."""
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(n // per_patient, 8)), per_patient, axis=0)
    features += 0.3 * rng.normal(size=features.shape)
    sources = np.repeat(["a", "b"], n // 2)
    features[sources == "b", 3] += shift
    patients = [f"{source}/{i // per_patient}" for i, source in enumerate(sources)]
    return features, sources.tolist(), patients


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0.2, 0.7), (3.0, 0.93, 1.0)])
def test_tells_sources_that_differ_and_no_others(shift, low, high):
    scores = source_telling(*images(shift), resamples=200)
    assert set(scores) == {"a", "b"}
    for score in scores.values():
        assert low <= score.value <= high
        assert score.low < score.value < score.high


def test_a_patient_is_never_on_both_sides():
    """Features that tell patients apart, and nothing else, tell no source."""
    rng = np.random.default_rng(1)
    features = np.repeat(rng.normal(size=(40, 60)), 5, axis=0)
    sources = np.repeat(["a", "b"], 100).tolist()
    patients = [f"{source}/{i // 5}" for i, source in enumerate(sources)]
    assert source_telling(features, sources, patients, resamples=50)["a"].value < 0.75


def test_too_few_patients_are_left_out():
    features, sources, patients = images(1.0)
    assert source_telling(features[:110], sources[:110], patients[:110]) == {}
