"""What a trained network says about a split, and whether that is a test."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcovid.data import identity
from jaxcovid.data.ablations import Control
from jaxcovid.data.datasets import Dataset
from jaxcovid.data.labels import ClassTargets, FindingTargets, shuffled
from jaxcovid.inference import frozen_parts
from jaxcovid.inference.predictor import Predictor
from jaxcovid.metrics import scores
from jaxcovid.metrics.subgroups import groups_of
from jaxcovid.training.validation import predict_source


@dataclasses.dataclass(frozen=True)
class Scored:
    """A network's answers for every image of a split, once.

    Attributes:
      predictor: the network.
      dataset: that was asked about; not always the run's own.
      split: its name.
      source: the records.
      predictions: calibrated.
      uncalibrated: probabilities of the positive class before the temperature, float [n].
      groups: of each image, see `subgroups.groups_of`.
      seen: how much of it the network has learned from.
    """

    predictor: Predictor
    dataset: Dataset
    split: str
    source: Sequence[Mapping[str, Any]]
    predictions: scores.Predictions
    uncalibrated: np.ndarray
    groups: Sequence[Mapping[str, str]] = ()
    seen: identity.Overlap | None = None

    @property
    def positive(self) -> np.ndarray:
        """True where an image is of the positive class, bool [n]."""
        return self.predictions.targets[:, 0]

    @property
    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """What an ROC curve is made of: bool [n] and probability of the positive class [n]."""
        return self.positive, self.predictions.probabilities[:, 0]


def score_split(predictor: Predictor, dataset: Dataset, split: str, *, workers: int = 0) -> Scored:
    """Asks a network about a split.

    Raises:
      ValueError: no such split.
    """
    facts = predictor.facts
    source = dataset.source(split)
    probabilities = ask(predictor, source, control=predictor.control, workers=workers)
    # Where the other classes have other names, only the positive one can be told from the rest.
    known = set(predictor.outputs) <= set(_told(dataset, predictor))
    outputs = predictor.outputs if known else predictor.outputs[:1]
    if predictor.screening:
        targets: Any = ClassTargets(outputs, dataset.class_names)
    else:
        uncertain = facts["config"]["uncertain"]
        targets = FindingTargets(outputs, tuple(uncertain["ones"]), tuple(uncertain["ignore"]))
    if facts["config"]["control"] == "shuffled_labels":
        targets = shuffled(targets, source, seed=facts["config"]["seed"])
    ids, patients, found, groups = [], [], [], []
    for record in (source[i] for i in range(len(source))):
        ids.append(record["id"])
        patients.append(record["patient"])
        found.append(targets(record))
        groups.append(groups_of(record))
    wanted = np.stack(found)
    calibrated = predictor.calibrate(probabilities)[:, : len(outputs)]
    predictions = scores.Predictions(
        ids=ids,
        patients=patients,
        targets=wanted > 0.5,
        probabilities=calibrated,
        outputs=outputs,
        known=None if predictor.screening else wanted >= 0,
    )
    return Scored(predictor, dataset, split, source, predictions, probabilities[:, 0], groups)


def ask(
    predictor: Predictor,
    source: Sequence[Mapping[str, Any]],
    *,
    control: Control | None,
    workers: int,
) -> np.ndarray:
    """Uncalibrated probabilities float32 [n, outputs] of all records, altered by a control."""
    return predict_source(
        predictor.weights,
        source,
        forward=predictor.forward,
        preprocessing=predictor.preprocessing,
        batch_size=predictor.batch_size,
        mesh=predictor.mesh,
        control=control,
        workers=workers,
    )


def check_fits(dataset: Dataset, predictor: Predictor) -> None:
    """Checks that a network can be asked about a data set, its own or another.

    Raises:
      ValueError: images of another modality, or classes or findings that the network was not
        trained for.
    """
    own = predictor.facts["dataset"]
    if dataset.name == own["name"]:
        if dataset.digest != own["digest"]:
            logging.warning(
                "The data set %s has changed since training: its digest is %s, the run's %s",
                dataset.name,
                dataset.digest,
                own["digest"],
            )
        return
    if dataset.modality and predictor.modality and dataset.modality != predictor.modality:
        raise ValueError(
            f"{dataset.name} holds {dataset.modality} images, this network was trained on "
            f"{predictor.modality}"
        )
    told = _told(dataset, predictor)
    needed = predictor.outputs[:1] if predictor.screening else predictor.outputs
    if absent := [name for name in needed if name not in told]:
        raise ValueError(
            f"{dataset.name} does not tell of {' and '.join(absent)}, which this network does; "
            f"it tells of {', '.join([*dataset.class_names, *dataset.finding_names])}"
        )


def _told(dataset: Dataset, predictor: Predictor) -> tuple[str, ...]:
    """What a data set tells of that a network can be compared with."""
    return dataset.class_names if predictor.screening else dataset.finding_names


def check_same(scored: Scored, other: Scored) -> None:
    """Checks that two networks were asked the same about the same images.

    Raises:
      ValueError: they were not.
    """
    one, two = scored.predictions, other.predictions
    if list(one.ids) != list(two.ids):
        raise ValueError(
            f"the networks were asked about other images ({len(one.ids)} and {len(two.ids)}); "
            "compare runs of one data set, or give --dataset"
        )
    if one.outputs[0] != two.outputs[0]:
        raise ValueError(
            f"one network looks for {one.outputs[0]}, the other for {two.outputs[0]}; compare runs "
            "of one class"
        )
    if not np.array_equal(scored.positive, other.positive):
        raise ValueError("the networks have other labels of the same images (shuffled ones?)")


def check_held_out(
    workdir: Path, predictor: Predictor, dataset: Dataset, split: str, *, allow_seen: bool
) -> identity.Overlap:
    """Checks that a network has not learned from the images or patients of a split.

    The validation split of the run itself may hold what the checkpoint was chosen on; of any other
    split that counts as learned from.

    Args:
      workdir: of the network.
      predictor: the network.
      dataset: that it is asked about.
      split: of the data set.
      allow_seen: warn instead of refusing.

    Returns:
      How much it has seen.

    Raises:
      ValueError: it has seen some, and `allow_seen` is False.
    """
    own = predictor.facts["dataset"]
    validating = split == "validation" and dataset.name == own["name"]
    used = frozen_parts.trained_on(workdir, predictor.model)
    trained = used["train"] if validating else [*used["train"], *used["validation"]]
    dataset.source(split)  # an unknown split is refused
    seen = identity.overlap(dataset.identities()[split], trained)
    if not seen:
        return seen
    message = (
        f"{seen.images} of {seen.total} images of the {split} split of {dataset.name} were in the "
        f"training or validation of {workdir}"
    )
    if seen.patients:
        message += (
            f", and {seen.images_of_patients} are of {seen.patients} patients of whom it has seen "
            "images"
        )
    if not allow_seen:
        raise ValueError(
            f"{message}; that is no test. Give another split or data set, or --allow_seen for "
            "scores that the report marks"
        )
    logging.warning("%s; the report says so", message)
    return seen
