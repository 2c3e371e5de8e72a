"""Validation: probabilities of the validation split, and the scores that rank a checkpoint."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from jaxcovid.data import lung_focus
from jaxcovid.data.decoding import decode_gray
from jaxcovid.data.labels import Task
from jaxcovid.data.pipeline import Loading
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.data.structures import STRUCTURES
from jaxcovid.inference.forward import jit_forward
from jaxcovid.inference.grad_cam import grad_cam
from jaxcovid.inference.overlay import overlay
from jaxcovid.inference.predict_source import predict_source
from jaxcovid.metrics import calibration, scores
from jaxcovid.metrics.thresholds import INVOLVED, choose_thresholds
from jaxcovid.runtime import distributed
from jaxcovid.training.progress import Progress
from jaxcovid.training.splits import Split
from jaxcovid.training.state_validator import StateValidator
from jaxcovid.workdir.checkpoint_facts import Validation

_HEATMAPS = 4  # that are drawn at each validation
_LEAST_IMAGES = 2000  # of a split for which worker processes are started


class Validator(StateValidator):
    """Validates a network that screens, segments, or does both."""

    def __init__(
        self,
        split: Split,
        *,
        task: Task,
        model: nn.Module,
        preprocessing: Preprocessing,
        mesh: Mesh,
        batch_size: int,
        loss_weights: np.ndarray,
        workers: int,
    ) -> None:
        """Reads the targets of all records.

        Args:
          split: the records that rank checkpoints and give the thresholds.
          task: what the network is asked.
          model: the network.
          preprocessing: the paper's steps.
          mesh: the devices.
          batch_size: images of a global batch.
          loss_weights: of the training, see `losses.class_weights`.
          workers: of the training, see `pipeline.train_batches`.
        """
        super().__init__(mesh)
        self._split, self._task, self._model = split, task, model
        self._loss_weights = loss_weights
        self._loading = Loading(
            preprocessing=preprocessing,
            batch_size=batch_size,
            ablation=split.ablation,
            masks=split.masks,
            workers=validation_workers(workers, len(split.source)),
        )
        self._forward = jit_forward(mesh, model=model, masks=split.masks)
        records = (split.source[i] for i in range(len(split.source)))  # one at a time
        targets, self._patients, self._sources = zip(
            *(
                (split.encode(record), record["patient"], record.get("source", ""))
                for record in records
            ),
            strict=True,
        )
        self._targets = np.stack(targets)
        self._heatmaps = None
        if model.has_gradcam:
            positives = np.flatnonzero(self._targets[:, 0] > 0.5)[:_HEATMAPS].tolist()
            self._heatmaps = _HeatmapDrawer(split, positives, model, preprocessing)

    def measure(
        self, step: int, variables: Mapping[str, Any]
    ) -> tuple[Validation, dict[str, float]]:
        """See `StateValidator`."""
        validation = self.scores(step, variables)
        scores = {"loss": validation.loss}
        if self._model.classifies:
            scores["auc"] = validation.auc
        scores |= {f"auc_{name}": value for name, value in validation.source_auc.items()}
        scores |= {f"dice_{name}": value for name, value in validation.dice.items()}
        return validation, scores

    def show(self, step: int, variables: Mapping[str, Any], progress: Progress) -> None:
        """Writes heatmaps, where there are any."""
        if self._heatmaps and distributed.is_main():
            progress.writer.images(step, "heatmaps", self._heatmaps.draw(variables))

    def scores(self, step: int, variables: Mapping[str, Any]) -> Validation:
        """The scores of variables that are replicated over the mesh.

        Raises:
          ValueError: no mask is known of a network that segments.
        """
        result = predict_source(
            variables,
            self._split.source,
            forward=self._forward,
            loading=self._loading,
            mesh=self._mesh,
        )
        probabilities, overlaps = result if self._split.masks else (result, None)
        dice = {} if overlaps is None else mean_dice(overlaps, self._patients)
        if not self._model.classifies:
            return segmentation_scores(step, probabilities[:, 0], self._targets[:, 0], dice)
        targets, sources = self._targets, np.array(self._sources)
        if self._task.screens:  # not of sources of which only masks are learned
            taught = targets[:, 0] >= 0
            probabilities, targets, sources = (
                probabilities[taught],
                targets[taught],
                sources[taught],
            )
        validation = validation_scores(
            step, probabilities, targets, task=self._task, loss_weights=self._loss_weights
        )
        source_auc = {}
        if self._task.screens:
            source_auc = source_aucs(probabilities[:, 0], targets[:, 0], sources)
        return dataclasses.replace(validation, dice=dice, source_auc=source_auc)


class _HeatmapDrawer:
    """Draws heatmaps of the first few positive images."""

    def __init__(
        self,
        split: Split,
        positives: Sequence[int],
        model: nn.Module,
        preprocessing: Preprocessing,
    ) -> None:
        self._records = [split.source[i] for i in positives]
        self._ablation, self._preprocessing = split.ablation, preprocessing
        self._grad_cam = jax.jit(lambda weights, image: grad_cam(weights, image, model=model))

    def draw(self, variables: Mapping[str, Any]) -> np.ndarray:
        """Overlays uint8 [n, size, size, 3] of what the network is shown."""
        grays = [decode_gray(record["image"]) for record in self._records]
        if self._ablation:
            grays = [self._ablation(gray, {}) for gray in grays]
        shown = zip(self._records, grays, strict=True)
        grays = [lung_focus.show(record, gray)[0] for record, gray in shown]
        inputs = np.stack([self._preprocessing(gray) for gray in grays])
        cams = np.asarray(self._grad_cam(jax.device_get(variables), inputs))
        size = (self._preprocessing.size, self._preprocessing.size)
        return np.stack(
            [overlay(cv2.resize(gray, size), cam) for gray, cam in zip(grays, cams, strict=True)]
        )


def validation_scores(
    step: int,
    probabilities: np.ndarray,
    targets: np.ndarray,
    *,
    task: Task,
    loss_weights: np.ndarray,
) -> Validation:
    """Scores of probabilities and targets, both float [n, outputs].

    Thresholds are those of probabilities after the temperature. The loss is that of the training:
    with its weights float [2, outputs], over known targets.

    The AUC is that of the first output if the task screens for a class; else, of findings, the mean
    over those that are both present and absent in the split. Targets below 0 are not known.
    """
    exclusive, known = task.exclusive, targets >= 0
    aucs = [
        scores.auc(target[counts] > 0.5, probability[counts])
        for target, probability, counts in zip(targets.T, probabilities.T, known.T, strict=True)
    ]
    temperature = calibration.fit_temperature(probabilities, targets, exclusive=exclusive)
    calibrated = calibration.apply_temperature(probabilities, temperature, exclusive=exclusive)
    thresholds = {}
    if task.screens:
        thresholds = choose_thresholds(targets[:, 0] > 0.5, calibrated[:, 0])
    return Validation(
        step=step,
        auc=float(aucs[0] if task.screens else np.nanmean(aucs)),
        loss=calibration.loss(probabilities, targets, exclusive=exclusive, weights=loss_weights),
        temperature=temperature,
        thresholds=thresholds,
    )


def source_aucs(
    probability: np.ndarray, target: np.ndarray, sources: np.ndarray
) -> dict[str, float]:
    """The AUC of each source with images of both classes; none if all images are of one source.

    Args:
      probability: of the positive class, float [n].
      target: 1 of images of the positive class, else 0, float [n].
      sources: names, str [n].
    """
    names = np.unique(sources).tolist()
    if len(names) < 2:
        return {}
    aucs = {
        name: float(scores.auc(target[sources == name] > 0.5, probability[sources == name]))
        for name in names
    }
    return {name: value for name, value in aucs.items() if not math.isnan(value)}


def mean_dice(overlaps: np.ndarray, patients: Sequence[str]) -> dict[str, float]:
    """The mean Dice over patients of each structure, of the pixels of all their images together.

    A patient without the structure in both masks does not count, nor does one of unknown masks.

    Args:
      overlaps: int [n, structures, 3], see `forward.forward_with_overlaps`.
      patients: of the images, [n].

    Raises:
      ValueError: no patient counts for any structure.
    """
    numbers, group = np.unique(patients, return_inverse=True)
    sums = np.zeros((len(numbers), *overlaps.shape[1:]))
    np.add.at(sums, group, overlaps)
    both, sizes = 2 * sums[..., 0], sums[..., 1] + sums[..., 2]
    dice = {
        name: float(np.mean(both[counts, i] / sizes[counts, i]))
        for i, (name, counts) in enumerate(zip(STRUCTURES, (sizes > 0).T, strict=True))
        if counts.any()
    }
    if not dice:
        raise ValueError("no mask is known in the validation split, so nothing ranks checkpoints")
    return dice


def segmentation_scores(
    step: int, involvement: np.ndarray, positive: np.ndarray, dice: Mapping[str, float]
) -> Validation:
    """The scores of a network without a classifier.

    Args:
      step: at which they are.
      involvement: share of the lungs that the lesion covers, float [n].
      positive: 1 of images of the positive class, float [n].
      dice: see `mean_dice`.
    """
    both = 0 < positive.sum() < positive.size
    return Validation(
        step=step,
        auc=math.nan,
        loss=1 - statistics.fmean(dice.values()),
        thresholds=choose_thresholds(positive > 0.5, involvement) if both else INVOLVED,
        dice=dice,
    )


def validation_workers(workers: int, images: int) -> int:
    """Worker processes of a validation: those of the training where their start pays, else 0.

    They are started anew at each validation, in 1.5 s for one and 2 to 5 s for four (two cores),
    while two threads prepare 600 to 1,200 images a second without any start.
    """
    return workers if workers > 2 and images >= _LEAST_IMAGES else 0
