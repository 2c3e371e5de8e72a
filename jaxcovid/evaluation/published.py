"""Published scores, to compare ours with: Tables III to VI of the paper (arXiv:2012.14204)."""

from jaxcovid.data.datasets import SEPARATOR
from jaxcovid.evaluation.result import PublishedScores, PublishedTable

# By data set; a row is method, precision, recall, F, AUC, accuracy.
_TABLES = {
    "ct_cov19": PublishedTable(
        "Table III, CT-COV19",
        (
            PublishedScores("COVNET", 0.750, 0.810, 0.779, 0.842, None),
            PublishedScores("DL-system", 0.769, 0.750, 0.759, 0.804, None),
            PublishedScores("Hybrid-3D", 0.808, 0.797, 0.802, 0.843, None),
            PublishedScores("Unet++", 0.724, 0.746, 0.735, 0.826, None),
            PublishedScores("Deep-CT-Net", 0.720, 0.858, 0.783, 0.886, None),
        ),
    ),
    "covid_ct": PublishedTable(
        "Table V, COVID-CT",
        (
            PublishedScores("xDNN", 0.897, 0.886, 0.892, 0.886, None),
            PublishedScores("Baseline of COVID-CT", 0.970, 0.762, 0.853, 0.824, None),
            PublishedScores("Ref. 29", 0.817, 0.850, 0.833, None, None),
            PublishedScores("Deep-CT-Net", 0.884, 0.905, 0.894, 0.899, None),
        ),
    ),
    "covid_chestxray": PublishedTable(
        "Table VI, ieee8023, 70/30 by film and 100 more of other pneumonia",
        (
            PublishedScores("CAAD", 0.943, 0.915, 0.924, 0.920, 0.930),
            PublishedScores("COVID-ResNet", 0.926, 0.916, 0.920, 0.916, 0.916),
            PublishedScores("Ref. 12", 0.898, 0.894, 0.896, 0.889, 0.889),
            PublishedScores("Deep-CXR-Net", 0.987, 0.982, 0.984, 0.983, 0.983),
        ),
    ),
}
_EXTERNAL = PublishedTable(
    "Table IV, trained on CT-COV19 and tested on COVID-CT",
    (
        PublishedScores("DenseNet-169", None, None, 0.760, 0.901, 0.795),
        PublishedScores("ResNet-50", None, None, 0.746, 0.864, 0.774),
        PublishedScores("Deep-CT-Net", None, None, 0.801, 0.920, 0.860),
    ),
)


def published_scores(*, trained_on: str, tested_on: str) -> PublishedTable | None:
    """The paper's table for a pair of data sets; None if it has none, as of several sources.

    Args:
      trained_on: name of the data set of the run, with or without its config.
      tested_on: name of the data set of the test.
    """
    if SEPARATOR in trained_on + tested_on:
        return None
    trained, tested = trained_on.partition("/")[0], tested_on.partition("/")[0]
    if (trained, tested) == ("ct_cov19", "covid_ct"):
        return _EXTERNAL
    return _TABLES.get(tested) if trained == tested else None
