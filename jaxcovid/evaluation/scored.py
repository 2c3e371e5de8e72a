"""A trained network's probabilities for a split, which every part of an evaluation starts from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxcovid.data.datasets import Dataset, Record
from jaxcovid.data.decoding import decode_gray
from jaxcovid.data.identity import Overlap
from jaxcovid.data.labels import shuffled
from jaxcovid.data.lung_focus import FocusedSource
from jaxcovid.data.masks import decode_mask
from jaxcovid.data.opening import open_dataset
from jaxcovid.data.structures import FEATURES
from jaxcovid.data.volume_source import by_volumes
from jaxcovid.evaluation.held_out import check_fits, check_held_out, labelled
from jaxcovid.evaluation.selection import Selection
from jaxcovid.inference.predictor import Predictor
from jaxcovid.metrics.predictions import Predictions
from jaxcovid.metrics.subgroups import groups_of


@dataclass(frozen=True)
class ScoredSplit:
    """A network's probabilities for every image of a split, once.

    Attributes:
      predictor: the network.
      dataset: the data set, not always the run's own.
      split: its name.
      source: the records.
      predictions: calibrated.
      uncalibrated: probabilities of the positive class before the temperature, float [n].
      groups: of each image, see `subgroups.groups_of`.
      seen: how much of it the network has learned from.
      shown: the records, with what the network is shown of them, see `Predictor.focused`.
    """

    predictor: Predictor
    dataset: Dataset
    split: str
    source: Sequence[Record]
    predictions: Predictions
    uncalibrated: np.ndarray
    groups: Sequence[Mapping[str, str]]
    seen: Overlap
    shown: Sequence[Record] = ()

    @property
    def without_lungs(self) -> int | None:
        """Images that were shown whole because no lungs were found.

        None of a network that is shown whole images.
        """
        return self.shown.without_lungs if isinstance(self.shown, FocusedSource) else None

    @property
    def has_lesion_masks(self) -> bool:
        """True if the data set has masks of lesions."""
        return FEATURES["lesion"] in self.source[0]

    def images(self, indices: Iterable[int]) -> list[np.ndarray]:
        """Some images, gray, uint8 [h, w]."""
        return [decode_gray(self.source[i]["image"]) for i in indices]

    def masks(self, indices: Iterable[int], structure: str) -> dict[int, np.ndarray]:
        """The masks, bool [h, w], of those of some images that have one with something in it.

        Args:
          indices: of the images.
          structure: one of `structures.STRUCTURES`.
        """
        masks = {i: decode_mask(self.source[i], structure) for i in map(int, indices)}
        return {i: mask for i, mask in masks.items() if mask is not None and mask.any()}


def score_split(predictor: Predictor, selection: Selection) -> ScoredSplit:
    """Scores the images of a split that a network may be evaluated on.

    Raises:
      ValueError: no such split, a data set that does not fit the network, or images that it has
        learned from.
      OSError: the data set is not prepared.
    """
    dataset = open_dataset(selection.dataset or predictor.run.dataset.name, selection.data_dir)
    source: Sequence[Record] = dataset.source(selection.split)
    check_fits(dataset, predictor)
    seen = check_held_out(dataset, selection.split, predictor, allow_seen=selection.allow_seen)
    source = by_volumes(source, predictor.run.volume_slices)
    shown = predictor.focused(source, ablation=predictor.ablation, workers=selection.workers)
    probabilities = predictor.score(shown, ablation=predictor.ablation, workers=selection.workers)
    calibrated = predictor.calibrate(probabilities)
    predictions, groups = _with_targets(calibrated, predictor, dataset, source)
    return ScoredSplit(
        predictor=predictor,
        dataset=dataset,
        split=selection.split,
        source=source,
        predictions=predictions,
        uncalibrated=probabilities[:, 0],
        groups=groups,
        seen=seen,
        shown=shown,
    )


def _with_targets(
    probabilities: np.ndarray, predictor: Predictor, dataset: Dataset, source: Sequence[Record]
) -> tuple[Predictions, Sequence[Mapping[str, str]]]:
    """Calibrated probabilities, float64 [n, outputs], beside their targets, and their groups."""
    task = predictor.task
    # Where the other classes have other names, only the positive one is known.
    if not set(task.outputs) <= set(labelled(dataset, predictor)):
        task = task.only_positive()
    encode = task.encoder(dataset.class_names)
    if predictor.run.ablation == "shuffled_labels":
        encode = shuffled(encode, source, seed=predictor.run.seed)
    ids, patients, targets, groups = [], [], [], []
    for record in (source[i] for i in range(len(source))):
        ids.append(record["id"])
        patients.append(record["patient"])
        targets.append(encode(record))
        groups.append(groups_of(record))
    stacked = np.stack(targets)
    predictions = Predictions(
        ids=ids,
        patients=patients,
        targets=stacked > 0.5,
        probabilities=probabilities[:, : len(task.outputs)],
        outputs=task.outputs,
        known=None if task.screens else stacked >= 0,
    )
    return predictions, groups
