"""Scores of parts of a split."""

import numpy as np

from jaxcovid.metrics import subgroups
from jaxcovid.metrics.predictions import Predictions


def test_subgroups_need_ten_of_each_class():
    rng = np.random.default_rng(0)
    n = 120
    positive = rng.random(n) < 0.5
    view = np.array(["PA"] * 100 + ["AP"] * 20)
    predictions = Predictions(
        ids=[str(i) for i in range(n)],
        patients=[str(i) for i in range(n)],
        targets=positive[:, None],
        probabilities=np.clip(0.5 * positive + rng.random(n) / 2, 0, 1)[:, None],
        outputs=("COVID-19",),
    )
    image = b"\x89PNG"
    groups = [subgroups.groups_of({"image": image, "view": v, "age": 41, "sex": ""}) for v in view]
    assert groups[0] == {"format": "PNG", "view": "PA", "age": "40 to 59"}
    of_a = {"image": image, "source": "folder/a"}
    assert subgroups.groups_of(of_a) == {"format": "PNG", "source": "folder/a"}
    rows = subgroups.subgroup_scores(predictions, groups, threshold=0.5, resamples=50)
    # All are PNG and of one age: only the views are groups.
    assert [(row.value, row.n) for row in rows] == [("AP", 20), ("PA", 100)]
    few, many = rows
    enough = min(few.n_positive, 20 - few.n_positive) >= 10
    assert (few.auc is not None) == enough
    assert many.auc.low < many.auc.value <= 1
    assert many.n_positive == positive[:100].sum()
