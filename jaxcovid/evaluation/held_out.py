"""Is it a test? Whether a network can be evaluated on a data set, and has not learned from it."""

import logging

from jaxcovid.data import identity
from jaxcovid.data.datasets import Dataset
from jaxcovid.data.joined import member_names
from jaxcovid.inference.predictor import Predictor


def labelled(dataset: Dataset, predictor: Predictor) -> tuple[str, ...]:
    """The labels of a data set that a network can be compared with: classes or findings."""
    return dataset.class_names if predictor.task.screens else dataset.finding_names


def check_fits(dataset: Dataset, predictor: Predictor) -> None:
    """Checks that a network can be evaluated on a data set, its own or another.

    Raises:
      ValueError: images of another modality, or classes or findings that the network was not
        trained for.
    """
    own = predictor.run.dataset
    if dataset.name == own.name:
        if dataset.digest != own.digest:
            logging.warning(
                "The data set %s has changed since training, or was prepared anew since digests "
                "cover masks: its digest is %s, the run's %s",
                dataset.name,
                dataset.digest,
                own.digest,
            )
        return
    if dataset.modality and own.modality and dataset.modality != own.modality:
        raise ValueError(
            f"{dataset.name} holds {dataset.modality} images, this network was trained on "
            f"{own.modality}"
        )
    task = predictor.task
    needed = task.outputs[:1] if task.screens else task.outputs
    if absent := [name for name in needed if name not in labelled(dataset, predictor)]:
        raise ValueError(
            f"{dataset.name} has no label for {' and '.join(absent)}, which this network "
            f"predicts; it labels {', '.join([*dataset.class_names, *dataset.finding_names])}"
        )


def check_held_out(
    dataset: Dataset, split: str, predictor: Predictor, *, allow_seen: bool
) -> identity.Overlap:
    """Checks that a network has not learned from the images or patients of a split.

    The validation split of the run itself, or of one of its sources, may hold what the checkpoint
    was chosen on; for any other split that counts as learned from.

    Args:
      dataset: the data set.
      split: of the data set.
      predictor: the network.
      allow_seen: warn instead of refusing.

    Returns:
      How much it has seen.

    Raises:
      ValueError: it has seen some, and `allow_seen` is False.
    """
    used = predictor.trained_on()
    own = predictor.run.dataset.name
    validating = split == "validation" and dataset.name in (own, *member_names(own))
    trained = used["train"] if validating else [*used["train"], *used["validation"]]
    seen = identity.overlap(dataset.identities()[split], trained)
    if not seen:
        return seen
    message = (
        f"{seen.images} of {seen.total} images of the {split} split of {dataset.name} were in the "
        f"training or validation of {predictor.workdir}"
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
