"""Another classifier in place of a network's own, fitted to its features of the training split."""

import dataclasses
from collections.abc import Callable

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxcovid.data.joined import member_names
from jaxcovid.data.opening import open_dataset
from jaxcovid.data.volume_source import by_volumes
from jaxcovid.evaluation.scored import ScoredSplit
from jaxcovid.evaluation.selection import Selection
from jaxcovid.inference.predictor import Predictor
from jaxcovid.metrics.prototypes import PrototypeClassifier
from jaxcovid.metrics.scores import auc
from jaxcovid.metrics.thresholds import choose_thresholds

CLASSIFIERS = ("logistic", "prototypes")
_STRENGTHS = np.logspace(-5, 2, 8)  # inverse, of the penalty on the weights
Scorer = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images as a classifier sees them.

    Attributes:
      features: float32 [n, c], see `Predictor.features`.
      positive: bool [n].
    """

    features: np.ndarray
    positive: np.ndarray


def check_classifier(predictor: Predictor, classifier: str) -> None:
    """Refuses what cannot be refitted.

    Raises:
      ValueError: no such classifier, or a network with another output than one class.
    """
    if classifier not in CLASSIFIERS:
        raise ValueError(
            f"there is no classifier {classifier!r}; use one of {', '.join(CLASSIFIERS)}"
        )
    run = predictor.run
    if not (predictor.task.screens and predictor.classifies and len(predictor.task.outputs) == 1):
        raise ValueError(
            f"--classifier needs a classifier for one class; {predictor.workdir} has "
            f"task={run.config['task']} and objective={run.config['objective']}"
        )
    if len(member_names(run.dataset.name)) > 1:
        raise ValueError(
            "--classifier needs a network that was trained on one data set; "
            f"{predictor.workdir} was trained on {run.dataset.name}"
        )
    if run.ablation != "none":
        raise ValueError(
            "--classifier needs a network that was trained on images as they are; "
            f"{predictor.workdir} was trained with ablation={run.ablation}"
        )


def refit(
    tested: ScoredSplit, validated: ScoredSplit, selection: Selection, *, classifier: str
) -> ScoredSplit:
    """A split, scored by a classifier that is fitted to the features of the run's training split.

    Args:
      tested: the split.
      validated: the run's validation split, on which strength and thresholds are chosen.
      selection: where data sets are kept, and the workers.
      classifier: one of `CLASSIFIERS`.

    Raises:
      ValueError: a class that no training image has.
      OSError: the data set of the run is not prepared.
    """
    train = _training_examples(tested.predictor, selection)
    validation = _examples(validated, selection.workers)
    score = fit(classifier, train, validation)
    thresholds = choose_thresholds(validation.positive, score(validation.features))
    scores = score(_examples(tested, selection.workers).features)
    return dataclasses.replace(
        tested,
        predictor=dataclasses.replace(tested.predictor, thresholds=thresholds),
        predictions=dataclasses.replace(tested.predictions, probabilities=scores[:, None]),
        uncalibrated=scores,
    )


def fit(classifier: str, train: Examples, validation: Examples) -> Scorer:
    """Fits a classifier; what it returns gives scores float64 [n] in [0, 1] of features [n, c].

    Args:
      classifier: `logistic`, whose penalty is chosen by the AUC on validation, or `prototypes`.
      train: to fit it to.
      validation: to choose its strength on.
    """
    if classifier == "prototypes":
        return PrototypeClassifier().fit(train.features, train.positive).predict
    scorers = [_fit_logistic(train, strength) for strength in _STRENGTHS]
    return max(scorers, key=lambda score: auc(validation.positive, score(validation.features)))


def _fit_logistic(train: Examples, strength: float) -> Scorer:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
    model.fit(train.features, train.positive)
    return lambda features: model.predict_proba(features)[:, 1]


def _examples(scored: ScoredSplit, workers: int) -> Examples:
    features = scored.predictor.features(scored.shown, workers=workers)
    return Examples(features, scored.predictions.positive)


def _training_examples(predictor: Predictor, selection: Selection) -> Examples:
    dataset = open_dataset(predictor.run.dataset.name, selection.data_dir)
    source = by_volumes(dataset.source("train"), predictor.run.volume_slices)
    encode = predictor.task.encoder(dataset.class_names)
    positive = np.array([encode(source[i])[0] > 0.5 for i in range(len(source))])
    return Examples(predictor.features(source, workers=selection.workers), positive)
