"""A trained network loaded from its workdir: images in, probabilities and heatmaps out.

    from jaxcovid.inference import predictor
    network = predictor.load("runs/covid_ct")
    probabilities = network.probabilities(["scan.png", array])  # float64 [2, outputs]

Evaluation and prediction both go through it, so they agree.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxcovid.data.ablations import Control, trained_control
from jaxcovid.data.decoding import as_gray, decode_gray, read_file
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.inference import frozen_parts
from jaxcovid.inference.grad_cam import grad_cam
from jaxcovid.inference.out_of_distribution import FILE as GUARD_FILE
from jaxcovid.inference.out_of_distribution import Guard, load_guard
from jaxcovid.metrics import calibration
from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.runtime.files import as_path
from jaxcovid.runtime.sharding import make_mesh, place_batch, replicated_sharding
from jaxcovid.training.step import jit_forward
from jaxcovid.workdir import checkpoints
from jaxcovid.workdir import run as workdirs

_grad_cam = jax.jit(grad_cam, static_argnames=("model", "output"))
Image = str | Path | bytes | np.ndarray


@dataclass(frozen=True)
class Predictor:
    """A network with its weights and everything that its workdir says about it.

    Attributes:
      facts: see `workdir.read`.
      model: the network.
      weights: the network's variables, on the devices.
      step: of the checkpoint.
      temperature: fitted on the validation split at that step; see `evaluation.calibration`.
      thresholds: chosen there on calibrated probabilities, by name (`youden`, ...).
      preprocessing: from a gray image to the network's input.
      mesh: the devices.
      forward: compiled, see `step.jit_forward`.
      batch_size: images that go through the network at once; the last batch is padded.
      guard: knows what training images look like; None if the workdir has none.
      window: centre and width in Hounsfield units through which CT is seen.
      hu_offset: what makes Hounsfield units of 16-bit PNG and TIFF; None stretches each over its
        own range.
    """

    facts: Mapping[str, Any]
    model: DeepCTNet
    weights: Mapping[str, Any]
    step: int
    temperature: float
    thresholds: Mapping[str, float]
    preprocessing: Preprocessing
    mesh: Mesh
    forward: Any
    batch_size: int
    guard: Guard | None
    window: tuple[float, float]
    hu_offset: float | None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, the positive class first."""
        return tuple(self.facts["outputs"])

    @property
    def control(self) -> Control | None:
        """What altered the images that it was trained on, and alters those it is tested on."""
        return trained_control(self.facts["config"]["control"])

    def with_shuffled_weights(self, seed: int) -> "Predictor":
        """The same network, the numbers of each parameter dealt out anew, to compare heatmaps with.

        They keep their size, so that activations do too; of newly drawn ones, in inference mode, no
        heatmap is left.
        """
        rng = np.random.default_rng(seed)
        shuffled = jax.tree.map(
            lambda x: rng.permutation(np.asarray(x).ravel()).reshape(x.shape),
            self.weights["params"],
        )
        placed = jax.device_put(shuffled, replicated_sharding(self.mesh))
        return dataclasses.replace(self, weights={**self.weights, "params": placed})

    @property
    def screening(self) -> bool:
        """True if it looks for a positive class; False if it tells of findings."""
        return self.facts["config"]["outputs"] != "findings"

    @property
    def has_gradcam(self) -> bool:
        """True if there are heatmaps: of a network with a part of its own."""
        return self.model.has_gradcam

    @property
    def modality(self) -> str:
        """What it was trained on: "CT" or "X-ray"; empty if that is not known."""
        return self.facts["dataset"]["modality"]

    def probabilities(self, images: Sequence[Image]) -> np.ndarray:
        """Calibrated probabilities float64 [n, outputs] of images, in their order.

        Args:
          images: paths, encoded bytes, or arrays uint8 or uint16 [h, w] gray, [h, w, 3] RGB.

        Raises:
          ImageError: an image that is not usable, or DICOM of another modality; says why.
          OSError: a file that cannot be read.
        """
        inputs = [self.preprocess(image) for image in images]
        return self.calibrate(self._in_batches(inputs, self._forward))

    def calibrate(self, probabilities: np.ndarray) -> np.ndarray:
        """What `forward` gives, float32 [n, outputs], after the temperature: float64."""
        return calibration.apply_temperature(
            probabilities, self.temperature, exclusive=self.model.exclusive
        )

    def warning(self, gray: np.ndarray, colour: float) -> str:
        """Why an image should not be screened, empty if the guard sees nothing.

        Args:
          gray: see `read_gray`.
          colour: see `images.colour_of`.
        """
        if self.guard is None:
            return (
                f"not checked: the workdir has no {GUARD_FILE}; finish the training (it needs 20 "
                "images or more)"
            )
        return self.guard.warning(gray, colour)

    def heatmaps(self, images: Sequence[Image], *, output: int = 0) -> np.ndarray:
        """Grad-CAM heatmaps float32 [n, h / 16, w / 16] in 0 to 1 of an output.

        Args and errors: as those of `probabilities`; output 0 is the positive class. A network
        whose part 3 is switched off has none: ValueError.
        """
        if not self.has_gradcam:
            raise ValueError("part 3 of this network is switched off, so it has no heatmaps")
        return self._in_batches(
            [self.preprocess(image) for image in images],
            lambda batch: _grad_cam(self.weights, batch, model=self.model, output=output),
        )

    def preprocess(self, image: Image) -> np.ndarray:
        """The network's input float32 [size, size, 1] of one image; see `probabilities`."""
        gray = self.read_gray(image)
        return self.preprocessing(self.control(gray, {}) if self.control else gray)

    def read_gray(self, image: Image) -> np.ndarray:
        """The gray image uint8 [h, w] of a path, encoded bytes or an array; see `probabilities`."""
        if isinstance(image, np.ndarray):
            return as_gray(image)
        data = image if isinstance(image, bytes) else read_file(Path(image))
        return decode_gray(
            data, modality=self.modality, window=self.window, hu_offset=self.hu_offset
        )

    def _forward(self, batch: jax.Array) -> jax.Array:
        return self.forward(self.weights, batch)

    def _in_batches(self, inputs: list[np.ndarray], function: Any) -> np.ndarray:
        found = []
        for start in range(0, len(inputs), self.batch_size):
            rows = inputs[start : start + self.batch_size]
            padded = np.stack(rows + [rows[-1]] * (self.batch_size - len(rows)))
            batch = place_batch({"image": padded}, self.mesh)["image"]
            found.append(np.asarray(function(batch))[: len(rows)])
        if not found:
            raise ValueError("no images given")
        return np.concatenate(found)


def _read(workdir: Path) -> tuple[dict[str, Any], Preprocessing, dict[str, Any], DeepCTNet]:
    """What a workdir says of its network: facts, preprocessing, parts and the network itself."""
    facts = workdirs.read(workdir)
    config = facts["config"]
    try:
        trained_control(config["control"])
        preprocessing = Preprocessing(**config["preprocessing"])
        parts = frozen_parts.part_facts(workdir, config, modality=facts["dataset"]["modality"])
        model = frozen_parts.make_model(config, outputs=len(facts["outputs"]), parts=parts)
    except (TypeError, KeyError) as error:
        raise workdirs.WorkdirError(
            f"{workdir / workdirs.FILE} is damaged, or of another version: {error!r}"
        ) from error
    return facts, preprocessing, parts, model


def load(workdir: str | Path, *, step: int | None = None, batch_size: int = 8) -> Predictor:
    """Loads a trained network from its workdir.

    Args:
      workdir: of a training run.
      step: of the checkpoint; None is the best one by validation AUC.
      batch_size: images that go through the network at once, rounded up to the devices.

    Raises:
      WorkdirError: not a workdir.
      CheckpointError: no such checkpoint, or it is damaged, of another network or not validated.
    """
    workdir = as_path(workdir)
    facts, preprocessing, parts, model = _read(workdir)
    mesh = make_mesh()
    step = checkpoints.best_step(workdir) if step is None else step
    weights = frozen_parts.load_weights(workdir, step, model, mesh, size=preprocessing.size)
    if parts:
        weights["frozen"] = frozen_parts.load_parts(workdir, model, mesh, size=preprocessing.size)
    validation = checkpoints.validation_of(checkpoints.read_facts(workdir, step))
    if validation is None:
        raise checkpoints.CheckpointError(
            f"checkpoint {step} of {workdir} was not validated, so it has no thresholds; leave "
            "--step out for the best one"
        )
    return Predictor(
        facts=facts,
        model=model,
        weights=weights,
        step=step,
        temperature=validation["temperature"],
        thresholds=validation["thresholds"],
        preprocessing=preprocessing,
        mesh=mesh,
        forward=jit_forward(mesh, model=model),
        batch_size=-(-batch_size // mesh.size) * mesh.size,
        guard=load_guard(workdir),
        window=tuple(facts["dataset"]["window"]),
        hu_offset=facts["dataset"].get("hu_offset"),  # earlier versions knew none
    )
