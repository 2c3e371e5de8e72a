"""All scores of a network for findings."""

import numpy as np
import pytest

from jaxcovid.metrics import scores
from jaxcovid.metrics.findings import evaluate_findings
from jaxcovid.metrics.predictions import Predictions


def test_findings_leave_out_what_is_not_known():
    rng = np.random.default_rng(0)
    targets, probabilities = rng.random((60, 2)) < 0.4, rng.random((60, 2))
    known = rng.random((60, 2)) < 0.8
    predictions = Predictions(
        ids=[str(i) for i in range(60)],
        patients=[str(i // 2) for i in range(60)],
        targets=targets & known,
        probabilities=probabilities,
        outputs=("Edema", "Mass"),
        known=known,
    )
    found = evaluate_findings(predictions, resamples=50)
    for column, name in enumerate(predictions.outputs):
        use = known[:, column]
        expected = scores.auc(targets[use, column], probabilities[use, column])
        assert found.auc_per_output[name].value == pytest.approx(expected)
        counts = found.counts[name]
        assert counts.unknown == (~use).sum()
        assert counts.positive + counts.negative == use.sum()
    values = [score.value for score in found.auc_per_output.values()]
    assert found.auc.value == pytest.approx(np.mean(values))
