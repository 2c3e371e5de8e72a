"""Networks are compared where they answered the same question."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxcovid.data.identity import Overlap
from jaxcovid.evaluation.comparison import compare
from jaxcovid.evaluation.ensemble import join
from jaxcovid.evaluation.scored import ScoredSplit
from jaxcovid.metrics.predictions import Predictions


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that is not asked."""

    workdir: Path
    thresholds: dict


def scored(ids, positive, *, seed=0, output="COVID-19", seen=0):
    """A network's made-up probabilities."""
    probability = np.random.default_rng(seed).random(len(ids))
    predictions = Predictions(
        ids=ids,
        patients=ids,
        targets=np.asarray(positive, bool)[:, None],
        probabilities=probability[:, None],
        outputs=(output,),
    )
    return ScoredSplit(
        predictor=Network(Path(f"runs/{seed}"), {"youden": 0.5}),
        dataset=SimpleNamespace(name="phantom"),
        split="test",
        source=[{}],
        predictions=predictions,
        uncalibrated=probability,
        groups=(),
        seen=Overlap(seen, 0, seen, len(ids)),
    )


def test_networks_are_compared_on_the_same_images_alone():
    ids, positive = list("abcdefgh"), [0, 1] * 4
    one = scored(ids, positive)
    found = compare(one, scored(ids, positive, seed=1))
    assert (found.name, found.path) == ("1", "runs/1")
    assert found.difference.low <= found.difference.value
    for other, message in (
        (scored(ids[::-1], positive), "different images"),
        (scored(ids, positive, output="normal"), "the other for normal"),
        (scored(ids, positive[::-1]), "different labels"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(one, other)


def test_an_ensemble_has_the_mean_probability_and_thresholds_from_validation():
    ids, positive = list("abcdefgh"), [0, 1] * 4
    tested = [scored(ids, positive, seed=seed, seen=seed) for seed in (0, 1)]
    validated = [scored(ids, positive, seed=seed) for seed in (2, 3)]
    joined, ensemble = join(tested, validated)
    mean = np.mean([each.predictions.probability for each in tested], 0)
    np.testing.assert_array_equal(joined.predictions.probability, mean)
    assert joined.predictor.thresholds.keys() == {"youden", "sensitivity_90", "sensitivity_95"}
    assert joined.seen.images == 1, "that of the run which has seen most"
    assert ensemble.mean == pytest.approx(np.mean(ensemble.aucs))
    assert ensemble.names == ["runs/0", "runs/1"]
    with pytest.raises(ValueError, match="different images"):
        join([tested[0], scored(ids[::-1], positive)], validated)
