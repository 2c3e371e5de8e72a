"""Published scores, to stand beside ours: Tables III to VI of the paper (arXiv:2012.14204)."""

from typing import Any

_COLUMNS = ("method", "precision", "recall", "f", "auc", "accuracy")
# By data set: what the table is, and its rows.
_TABLES: dict[str, tuple[str, tuple[tuple[Any, ...], ...]]] = {
    "ct_cov19": (
        "Table III, CT-COV19",
        (
            ("COVNET", 0.750, 0.810, 0.779, 0.842, None),
            ("DL-system", 0.769, 0.750, 0.759, 0.804, None),
            ("Hybrid-3D", 0.808, 0.797, 0.802, 0.843, None),
            ("Unet++", 0.724, 0.746, 0.735, 0.826, None),
            ("Deep-CT-Net", 0.720, 0.858, 0.783, 0.886, None),
        ),
    ),
    "covid_ct": (
        "Table V, COVID-CT",
        (
            ("xDNN", 0.897, 0.886, 0.892, 0.886, None),
            ("Baseline of COVID-CT", 0.970, 0.762, 0.853, 0.824, None),
            ("Ref. 29", 0.817, 0.850, 0.833, None, None),
            ("Deep-CT-Net", 0.884, 0.905, 0.894, 0.899, None),
        ),
    ),
    "covid_chestxray": (
        "Table VI, ieee8023, 70/30 by film and 100 more of other pneumonia",
        (
            ("CAAD", 0.943, 0.915, 0.924, 0.920, 0.930),
            ("COVID-ResNet", 0.926, 0.916, 0.920, 0.916, 0.916),
            ("Ref. 12", 0.898, 0.894, 0.896, 0.889, 0.889),
            ("Deep-CXR-Net", 0.987, 0.982, 0.984, 0.983, 0.983),
        ),
    ),
}
_EXTERNAL = (
    "Table IV, trained on CT-COV19 and tested on COVID-CT",
    (
        ("DenseNet-169", None, None, 0.760, 0.901, 0.795),
        ("ResNet-50", None, None, 0.746, 0.864, 0.774),
        ("Deep-CT-Net", None, None, 0.801, 0.920, 0.860),
    ),
)


def published_scores(*, trained_on: str, tested_on: str) -> dict[str, Any] | None:
    """The paper's table for a pair of data sets, as `title` and `rows`; None if it has none.

    Args:
      trained_on: name of the data set of the run, with or without its config.
      tested_on: of that of the test.
    """
    trained, tested = trained_on.partition("/")[0], tested_on.partition("/")[0]
    title, rows = _TABLES.get(tested, ("", ())) if trained == tested else ("", ())
    if (trained, tested) == ("ct_cov19", "covid_ct"):
        title, rows = _EXTERNAL
    if not rows:
        return None
    return {"title": title, "rows": [dict(zip(_COLUMNS, row, strict=True)) for row in rows]}
