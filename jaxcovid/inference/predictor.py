"""A trained network loaded from its workdir: images in, probabilities and heatmaps out.

    import jaxcovid

    network = jaxcovid.load("runs/covid_ct")
    probabilities = network.probabilities(["scan.png", array])  # float64 [2, outputs]

Evaluation and prediction both go through it, so they agree.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from jaxcovid.data import identity
from jaxcovid.data.ablations import Ablation, trained_ablation
from jaxcovid.data.datasets import Record
from jaxcovid.data.labels import Task
from jaxcovid.data.lung_focus import FocusedSource, View
from jaxcovid.data.pipeline import Loading
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.data.volume_source import check_single_images
from jaxcovid.inference import frozen_parts, lung_finder
from jaxcovid.inference.forward import features, jit_forward, jit_rows, segment
from jaxcovid.inference.grad_cam import grad_cam
from jaxcovid.inference.lung_finder import LungFinder
from jaxcovid.inference.network import NO_HEATMAPS, NO_LUNGS, Image, Network
from jaxcovid.inference.out_of_distribution import Detector, load_detector
from jaxcovid.inference.predict_source import predict_inputs, predict_source
from jaxcovid.inference.trained_on import trained_on
from jaxcovid.inference.training_facts import TrainingFacts, load_training_facts
from jaxcovid.metrics import calibration
from jaxcovid.models.segmentation_net import SegmentationNet
from jaxcovid.runtime.sharding import make_mesh, replicated_sharding
from jaxcovid.workdir.checkpoint_facts import CheckpointError, open_checkpoint
from jaxcovid.workdir.run import Run, WorkdirError

_segment = jax.jit(segment, static_argnames="model")
_grad_cam = jax.jit(grad_cam, static_argnames=("model", "output"))


@dataclass(frozen=True)
class Predictor(Network):
    """A network with its weights and everything that its workdir says about it.

    Attributes:
      workdir: that it was loaded from.
      run: that trained it.
      model: the network.
      variables: of the network, on the devices.
      step: of the checkpoint.
      temperature: fitted on the validation split at that step; see `metrics.calibration`.
      thresholds: chosen there on calibrated probabilities, by name (`youden`, ...).
      lungs: says what is shown of an image; None shows whole ones.
      preprocessing: from a gray image, or what is shown of it, to the network's input.
      mesh: the devices.
      forward: compiled, see `forward.jit_forward`.
      batch_size: images that go through the network at once; the last batch is padded.
      detector, window, hu_offset, training_facts: see `Network`.
    """

    workdir: Path
    run: Run
    model: nn.Module
    variables: Mapping[str, Any]
    step: int
    temperature: float
    thresholds: Mapping[str, float]
    lungs: LungFinder | None
    preprocessing: Preprocessing
    mesh: Mesh
    forward: Any
    batch_size: int
    detector: Detector | None
    window: tuple[float, float]
    hu_offset: float | None
    training_facts: TrainingFacts | None = None

    @property
    def task(self) -> Task:
        """See `Network`."""
        return self.run.task

    @property
    def ablation(self) -> Ablation | None:
        """What altered the images that it was trained on, and alters those it is tested on."""
        return trained_ablation(self.run.ablation)

    @property
    def has_gradcam(self) -> bool:
        """See `Network`."""
        return self.model.has_gradcam

    @property
    def classifies(self) -> bool:
        """False of a network that only segments: its probability is the share of lungs involved."""
        return self.model.classifies

    @property
    def modality(self) -> str:
        """See `Network`."""
        return self.run.dataset.modality

    def trained_on(self) -> dict[str, list[identity.Identities]]:
        """See `inference.trained_on`."""
        return trained_on(self.workdir, self.run)

    def with_shuffled_weights(self, seed: int) -> "Predictor":
        """The same network, the numbers of each parameter dealt out anew, to compare heatmaps with.

        They keep their size, so that activations do too; of newly drawn ones, in inference mode, no
        heatmap is left.
        """
        rng = np.random.default_rng(seed)
        shuffled = jax.tree.map(
            lambda x: rng.permutation(np.asarray(x).ravel()).reshape(x.shape),
            self.variables["params"],
        )
        placed = jax.device_put(shuffled, replicated_sharding(self.mesh))
        return dataclasses.replace(self, variables={**self.variables, "params": placed})

    def probabilities(self, images: Sequence[Image]) -> np.ndarray:
        """See `Network.probabilities`."""
        return self.probabilities_of_inputs(self.prepare(images)[0])

    def probabilities_of_inputs(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Calibrated probabilities float64 [n, outputs] of inputs that `prepare` gives."""
        return self.calibrate(
            self._in_batches(inputs, lambda batch: self.forward(self.variables, batch))
        )

    def score(
        self, source: Sequence[Record], *, ablation: Ablation | None = None, workers: int = 0
    ) -> np.ndarray:
        """Uncalibrated probabilities float32 [n, outputs] of all records of a split.

        Args:
          source: the records, or what `focused` made of them.
          ablation: alters the images.
          workers: processes that prepare images; 0 uses threads.
        """
        return self._of_source(source, self.forward, ablation=ablation, workers=workers)

    def features(self, source: Sequence[Record], *, workers: int = 0) -> np.ndarray:
        """What the head reads, see `forward.features`, of all records: float32 [n, c]."""
        forward = jit_rows(features, self.mesh, model=self.model)
        return self._of_source(source, forward, ablation=self.ablation, workers=workers)

    def _of_source(
        self, source: Sequence[Record], forward: Any, *, ablation: Ablation | None, workers: int
    ) -> np.ndarray:
        """What a compiled function gives of all records, see `score`."""
        if not isinstance(source, FocusedSource):
            source = self.focused(source, ablation=ablation, workers=workers)
        loading = Loading(
            preprocessing=self.preprocessing,
            batch_size=self.batch_size,
            ablation=ablation,
            workers=workers,
        )
        return predict_source(
            self.variables, source, forward=forward, loading=loading, mesh=self.mesh
        )

    def focused(
        self, source: Sequence[Record], *, ablation: Ablation | None = None, workers: int = 0
    ) -> Sequence[Record]:
        """The records of a split with what is shown of them; see `score`."""
        if self.lungs is None:
            return source
        return self.lungs.focused(source, ablation=ablation, workers=workers)

    def calibrate(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities float32 [n, outputs] after the temperature: float64."""
        exclusive = self.task.exclusive
        return calibration.apply_temperature(probabilities, self.temperature, exclusive=exclusive)

    def heatmaps(self, images: Sequence[Image], *, output: int = 0) -> np.ndarray:
        """See `Network.heatmaps`."""
        if not self.has_gradcam:
            raise ValueError(NO_HEATMAPS)
        inputs, views = self.prepare(images)
        cams = self._in_batches(
            inputs,
            lambda batch: _grad_cam(self.variables, batch, model=self.model, output=output),
        )
        if self.lungs is None:
            return cams
        pairs = zip(cams, views, strict=True)
        return np.stack([view.restore_heatmap(cam, self.preprocessing) for cam, view in pairs])

    @property
    def segments(self) -> bool:
        """See `Network`."""
        return isinstance(self.model, SegmentationNet)

    def segment(self, images: Sequence[Image]) -> list[np.ndarray]:
        """See `Network.segment`."""
        if not self.segments:
            return super().segment(images)
        inputs, views = self.prepare(images)
        masks = self._in_batches(inputs, partial(_segment, self.variables, model=self.model))
        pairs = zip(masks, views, strict=True)
        return [view.restore(mask, self.preprocessing) for mask, view in pairs]

    def prepare(self, images: Sequence[Image]) -> tuple[list[np.ndarray], list[View]]:
        """The network's inputs float32 [size, size, 1] of images, and what is shown of each.

        Args and errors: see `Network.probabilities`.
        """
        check_single_images(self.run.volume_slices)
        grays = [self.read_gray(image) for image in images]
        if ablation := self.ablation:
            grays = [ablation(gray, {}) for gray in grays]
        views = [View.whole(gray.shape) for gray in grays]
        if self.lungs is not None and grays:
            views = self.lungs.views(grays)
        inputs = [self.preprocessing(view(gray)) for view, gray in zip(views, grays, strict=True)]
        return inputs, views

    def warnings(self, grays: Sequence[np.ndarray], colours: Sequence[float]) -> list[str]:
        """See `Network.warnings`."""
        warnings = super().warnings(grays, colours)
        if self.lungs is None:
            return warnings
        return [
            "; ".join(filter(None, [warning, "" if view.has_lungs else NO_LUNGS]))
            for warning, view in zip(warnings, self.prepare(grays)[1], strict=True)
        ]

    def _in_batches(self, inputs: Sequence[np.ndarray], function: Any) -> np.ndarray:
        return predict_inputs(inputs, function, batch_size=self.batch_size, mesh=self.mesh)


def open_network(workdir: Path, run: Run) -> tuple[frozen_parts.Parts, nn.Module]:
    """The frozen parts and the network of a run.

    Raises:
      ValueError: a part or an option that does not fit.
    """
    try:
        parts = frozen_parts.carried_parts(workdir, run)
        return parts, frozen_parts.model_with_parts(run, parts)
    except (TypeError, KeyError) as error:
        raise WorkdirError(f"{workdir} is damaged, or of another version: {error!r}") from error


def load(workdir: Path, *, step: int | None = None, batch_size: int = 8) -> Predictor:
    """Loads a trained network from its workdir.

    Args:
      workdir: of a training run.
      step: of the checkpoint; None is the best one on validation.
      batch_size: images that go through the network at once, rounded up to the devices.

    Raises:
      WorkdirError: not a workdir, or that of a network without answers.
      CheckpointError: no such checkpoint, or it is damaged, of another network or not validated.
    """
    run = Run.load(workdir)
    frozen_parts.check_answers(workdir, run)
    parts, model = open_network(workdir, run)
    mesh, size = make_mesh(), run.preprocessing.size
    checkpoint = open_checkpoint(workdir, step)
    variables = frozen_parts.load_weights(checkpoint, model, mesh, size=size)
    if parts:
        variables["frozen"] = frozen_parts.load_parts(parts, mesh, size=size)
    lungs = lung_finder.carried_lungs(workdir, run)
    validation = checkpoint.facts.validation
    if validation is None:
        raise CheckpointError(
            f"checkpoint {checkpoint.step} of {workdir} was not validated and has no thresholds; "
            "leave --step out for the best one"
        )
    return Predictor(
        workdir=workdir,
        run=run,
        model=model,
        variables=variables,
        step=checkpoint.step,
        temperature=validation.temperature,
        thresholds=validation.thresholds,
        lungs=lung_finder.open_finder(lungs, run.config, mesh) if lungs else None,
        preprocessing=run.preprocessing,
        mesh=mesh,
        forward=jit_forward(mesh, model=model),
        batch_size=-(-batch_size // mesh.size) * mesh.size,
        detector=load_detector(workdir),
        window=run.dataset.window,
        hu_offset=run.dataset.hu_offset,
        training_facts=load_training_facts(workdir),
    )
