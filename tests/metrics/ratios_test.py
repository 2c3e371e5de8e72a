import numpy as np
import pytest

from jaxcovid.metrics import bootstrap
from jaxcovid.metrics.ratios import mean_interval, ratio_interval


@pytest.mark.parametrize("volumes", [10, 40])
def test_intervals_hold_the_truth(volumes):
    """Of skewed distances, signed errors and counts of 1 to 20 slices a volume."""
    rng = np.random.default_rng(0)
    draws, held = 600, dict.fromkeys(("distance", "error", "count"), 0)
    names = [str(i) for i in range(volumes)]
    for draw in range(draws):
        level = rng.gamma(4, size=volumes)
        slices = rng.integers(1, 21, volumes)
        found = {
            "distance": mean_interval(
                names, rng.lognormal(1, 0.6, volumes), scale="positive", resamples=300, seed=draw
            ),
            "error": mean_interval(
                names, rng.normal(-0.1, 0.3, volumes), scale="signed", resamples=300, seed=draw
            ),
            "count": ratio_interval(
                names,
                rng.poisson(0.1 * level * slices),
                slices,
                scale="positive",
                resamples=300,
                seed=draw,
            ),
        }
        truth = {"distance": np.exp(1 + 0.6**2 / 2), "error": -0.1, "count": 0.4}
        for name, score in found.items():
            held[name] += score.low <= truth[name] <= score.high
    coverage = {name: count / draws for name, count in held.items()}
    assert min(coverage.values()) >= 0.92, coverage
    assert max(coverage.values()) <= 0.98, coverage


def test_bounds_by_hand_from_the_same_resamples():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    weights = next(bootstrap.multiplicities(4, 100, 0, 100))
    error = (weights @ values / 4).std(ddof=1) * np.sqrt(4 / 3)
    half = 3.1824463 * error  # Student's t, 3 degrees of freedom
    signed = mean_interval(list("abcd"), values, scale="signed", resamples=100)
    assert (signed.value, signed.left_out) == (4, 0)
    assert [signed.low, signed.high] == pytest.approx([4 - half, 4 + half], rel=1e-6)
    positive = mean_interval(list("abcd"), values, scale="positive", resamples=100)
    assert [positive.low, positive.high] == pytest.approx(
        [4 * np.exp(-half / 4), 4 * np.exp(half / 4)], rel=1e-6
    )


def test_shares_have_the_interval_of_the_scores():
    shares = np.array([0.2, 0.5, 0.9, np.nan, 0.4])
    names = list("aabbc")
    found = mean_interval(names, shares, scale="share", resamples=100)
    expected = bootstrap.intervals(
        names,
        aucs={},
        ratios={"mean": (np.array([0.2, 0.5, 0.9, 0, 0.4]), np.array([1, 1, 1, 0, 1]))},
        resamples=100,
    )
    assert found == expected["mean"]
    assert found.value == 0.5


def test_undefined_values_and_bounds():
    for values, scale in (([np.nan] * 3, "positive"), ([np.nan] * 3, "signed")):
        score = mean_interval(list("abc"), np.array(values), scale=scale, resamples=20)
        assert np.isnan([score.value, score.low, score.high]).all()
        assert score.left_out == 20
    alone = mean_interval(["a"] * 3, np.array([1.0, 2, 3]), scale="signed", resamples=20)
    assert alone.value == 2
    assert not alone.has_interval
    none = mean_interval(list("abc"), np.zeros(3), scale="positive", resamples=20)
    assert none.value == 0
    assert not none.has_interval
    with pytest.raises(ValueError, match="1 resamples of 3 rows"):
        mean_interval(list("abc"), np.zeros(3), scale="signed", resamples=1)
