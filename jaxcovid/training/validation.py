"""Validation: probabilities of the validation split, and the scores that rank a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from jaxcovid.data.decoding import decode_gray
from jaxcovid.data.labels import Task
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.inference.forward import jit_forward
from jaxcovid.inference.grad_cam import grad_cam
from jaxcovid.inference.overlay import overlay
from jaxcovid.inference.predict_source import predict_source
from jaxcovid.metrics import calibration, scores
from jaxcovid.metrics.thresholds import choose_thresholds
from jaxcovid.runtime import distributed
from jaxcovid.runtime.sharding import replicated_sharding
from jaxcovid.training.experiment import Split
from jaxcovid.training.progress import Progress
from jaxcovid.training.state import TrainState
from jaxcovid.workdir.checkpoint_facts import History, Validation
from jaxcovid.workdir.checkpoints import Checkpoints

_HEATMAPS = 4  # that are drawn at each validation
_LEAST_IMAGES = 2000  # of a split for which worker processes are started


class Validator:
    """Validates a state and adds the scores to its checkpoint."""

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
        self._split, self._task, self._model = split, task, model
        self._preprocessing, self._mesh, self._batch_size = preprocessing, mesh, batch_size
        self._loss_weights, self._workers = loss_weights, workers
        self._forward = jit_forward(mesh, model=model)
        records = (split.source[i] for i in range(len(split.source)))  # one at a time
        self._targets = np.stack([split.encode(record) for record in records])
        self._heatmaps = None
        if model.has_gradcam:
            positives = np.flatnonzero(self._targets[:, 0] > 0.5)[:_HEATMAPS].tolist()
            self._heatmaps = _HeatmapDrawer(split, positives, model, preprocessing)

    def __call__(
        self,
        step: int,
        state: TrainState,
        history: History,
        *,
        progress: Progress,
        checkpoints: Checkpoints,
    ) -> History:
        """Validates a state that is saved; returns all validations up to this one."""
        variables = jax.device_put(state.variables, replicated_sharding(self._mesh))
        validation = self.scores(step, variables)
        progress.writer.scalars(
            step, {"validation/auc": validation.auc, "validation/loss": validation.loss}
        )
        if self._heatmaps and distributed.is_main():
            progress.writer.images(step, "heatmaps", self._heatmaps.draw(variables))
        history = (*history, validation)
        checkpoints.add_validation(history)
        return history

    def scores(self, step: int, variables: Mapping[str, Any]) -> Validation:
        """The scores of variables that are replicated over the mesh."""
        probabilities = predict_source(
            variables,
            self._split.source,
            forward=self._forward,
            preprocessing=self._preprocessing,
            batch_size=self._batch_size,
            mesh=self._mesh,
            ablation=self._split.ablation,
            workers=validation_workers(self._workers, len(self._split.source)),
        )
        return validation_scores(
            step, probabilities, self._targets, task=self._task, loss_weights=self._loss_weights
        )


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
        """Overlays uint8 [n, size, size, 3]."""
        grays = [decode_gray(record["image"]) for record in self._records]
        if self._ablation:
            grays = [self._ablation(gray, {}) for gray in grays]
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


def validation_workers(workers: int, images: int) -> int:
    """Worker processes of a validation: those of the training where their start pays, else 0.

    They are started anew at each validation, in 1.5 s for one and 2 to 5 s for four (two cores),
    while two threads prepare 600 to 1,200 images a second without any start.
    """
    return workers if workers > 2 and images >= _LEAST_IMAGES else 0
