"""How well features tell the source of an image, which says nothing about the disease.

A logistic model is fitted to features of the images and asked for the source of others, of patients
that it has not seen. Where it succeeds, so can the classifier that reads the same features: what
it learned may hold in these sources only (Zech et al. 2018, doi 10.1371/journal.pmed.1002683, told
hospitals by the features of a network for pneumonia). Images of one class are compared at a time,
so that sources with more of the disease are not told by the disease.
"""

from collections.abc import Sequence

import numpy as np

from jaxcovid.metrics import bootstrap
from jaxcovid.metrics.interval import Score

FOLDS = 5
_LEAST_PATIENTS = 2 * FOLDS  # of a source and class


def source_telling(
    features: np.ndarray,
    sources: Sequence[str],
    patients: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Score]:
    """The AUC of each source against the others, by cross-validation over patients.

    Args:
      features: of images of one class, float [n, c].
      sources: of the images, [n].
      patients: of the images, [n]; patients of different sources have different names.
      resamples: bootstrap resamples of patients.
      seed: of the folds and resamples.

    Returns:
      By source, those with enough patients; empty unless two or more have.
    """
    from sklearn import linear_model, model_selection, pipeline, preprocessing

    source, patient = np.array(sources), np.array(patients)
    counts = {name: len(np.unique(patient[source == name])) for name in sorted(set(sources))}
    compared = [name for name, count in counts.items() if count >= _LEAST_PATIENTS]
    if len(compared) < 2:
        return {}
    chosen = np.isin(source, compared)
    features, source, patient = features[chosen], source[chosen], patient[chosen]
    folds = model_selection.StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    model = pipeline.make_pipeline(
        preprocessing.StandardScaler(), linear_model.LogisticRegression(C=0.01, max_iter=1000)
    )
    probability = model_selection.cross_val_predict(
        model, features, source, groups=patient, cv=folds, method="predict_proba"
    )
    aucs = {
        name: (source == name, probability[:, column].astype(np.float64))
        for column, name in enumerate(compared)
    }
    return bootstrap.intervals(
        patient.tolist(), aucs=aucs, ratios={}, resamples=resamples, seed=seed
    )
