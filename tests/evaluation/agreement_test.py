"""How well the involvement of patients agrees with that of their true masks."""

import numpy as np
import pytest

from jaxcovid.evaluation.segmentation import agreement
from jaxcovid.evaluation.segmentation_result import PatientInvolvement
from jaxcovid.metrics.involvement import involvement, measure_slice


def involved(share):
    """Lungs of 10,000 pixels of which a share is lesion."""
    lungs = np.ones((100, 100), bool)
    return involvement(measure_slice(lungs, np.arange(100)[:, None].repeat(100, 1) < 100 * share))


def test_error_and_grades_are_means_over_patients_with_truth():
    pairs = [(0.1, 0.2), (0.3, 0.3), (0.2, 0.6), (0.0, None), (0.8, 0.9)]
    patients = [
        PatientInvolvement(str(i), 3, involved(p), None if t is None else involved(t))
        for i, (p, t) in enumerate(pairs)
    ]
    scores = agreement(patients)
    error, right = scores["involvement_error"], scores["grade_agreement"]
    assert error.value == pytest.approx((0.1 + 0 + 0.4 + 0.1) / 4)
    assert 0 < error.low < error.value < error.high
    assert right.value == 0.75, "CT-1, CT-2 and CT-4 are right, CT-1 for CT-3 is not"
    assert 0 < right.low < right.value < right.high < 1
    assert agreement(patients[3:4]) == {}
