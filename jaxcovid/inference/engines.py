"""Networks that were exported to ONNX, on ONNX Runtime or OpenVINO, without JAX.

The files are those of `weights.export.onnx`, with gray pixels as input.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxcovid.data.labels import Task
from jaxcovid.inference.network import NO_HEATMAPS, Image, Network
from jaxcovid.inference.out_of_distribution import Detector, load_detector
from jaxcovid.inference.training_facts import TrainingFacts, load_training_facts
from jaxcovid.weights.export.manifest import PIXELS, Manifest, ManifestError, load_manifest

# An engine gets pixels uint8 [b, h, w] and returns one output of the network.
Engine = Callable[[np.ndarray], np.ndarray]
BATCH_SIZE = 16  # most images at once


@dataclass(frozen=True)
class ExportedNetwork(Network):
    """A network in a file.

    Attributes:
      manifest: what the file says about itself.
      engine: makes probabilities, compiled.
      load_engine: compiles the engine of an output by its name.
      thresholds: see `Network`, as are the others.
      detector: likewise.
      window: likewise.
      hu_offset: likewise.
      batch_size: likewise.
      training_facts: likewise.
    """

    manifest: Manifest
    engine: Engine
    load_engine: Callable[[str], Engine]
    thresholds: Any
    detector: Detector | None
    window: tuple[float, float]
    hu_offset: float | None
    batch_size: int = BATCH_SIZE
    training_facts: TrainingFacts | None = None

    @property
    def task(self) -> Task:
        """See `Network`."""
        return self.manifest.asked

    @property
    def modality(self) -> str:
        """See `Network`."""
        return self.manifest.modality

    @property
    def step(self) -> int:
        """Of the checkpoint that was exported."""
        return self.manifest.step

    @property
    def has_gradcam(self) -> bool:
        """See `Network`."""
        return "heatmap" in self.manifest.outputs

    @property
    def segments(self) -> bool:
        """See `Network`."""
        return "masks" in self.manifest.outputs

    @property
    def classifies(self) -> bool:
        """See `Network`; one with a decoder and a classifier has heatmaps."""
        return self.has_gradcam or not self.segments

    @property
    def explained(self) -> tuple[str, ...]:
        """See `Network`; those of a network that screens are of its positive class alone."""
        if not self.has_gradcam:
            return ()
        return self.outputs[: self.manifest.outputs["heatmap"]["shape"][1]]

    def probabilities(self, images: Sequence[Image]) -> np.ndarray:
        """See `Network.probabilities`."""
        return _by_shape(self.engine, self._grays(images)).astype(np.float64)

    def heatmaps(self, images: Sequence[Image], *, output: int = 0) -> np.ndarray:
        """See `Network.heatmaps`."""
        if not self.has_gradcam:
            raise ValueError(NO_HEATMAPS)
        return _by_shape(self.load_engine("heatmap"), self._grays(images))[:, output]

    def segment(self, images: Sequence[Image]) -> list[np.ndarray]:
        """See `Network.segment`."""
        if not self.segments:
            return super().segment(images)
        grays, steps = self._grays(images), self.manifest.steps
        masks = np.moveaxis(_by_shape(self.load_engine("masks"), grays), 1, -1)
        return [steps.restore(mask, gray.shape) for mask, gray in zip(masks, grays, strict=True)]

    def _grays(self, images: Sequence[Image]) -> list[np.ndarray]:
        return [self.read_gray(image) for image in images]


def _by_shape(engine: Engine, grays: Sequence[np.ndarray]) -> np.ndarray:
    """What an engine makes of gray images, those of one shape at once, in their order."""
    results: list[Any] = [None] * len(grays)
    for rows in _same_shapes(grays):
        made = engine(np.stack([grays[row] for row in rows]))
        for row, result in zip(rows, made, strict=True):
            results[row] = result
    return np.stack(results)


def _same_shapes(images: Sequence[np.ndarray]) -> Iterable[list[int]]:
    """The indices of the images of each shape."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.shape, []).append(index)
    return groups.values()


def load(folder: Path, engine: str) -> ExportedNetwork:
    """Loads an exported network.

    Args:
      folder: that `jaxcovid.export --format=onnx` wrote.
      engine: `onnxruntime` or `openvino`.

    Raises:
      ManifestError: the folder holds another format or is damaged.
      ValueError: the engine is not installed.
    """
    manifest = load_manifest(folder)
    if manifest.format != "onnx" or manifest.input["name"] != PIXELS:
        raise ManifestError(
            f"{folder} holds {manifest.format} with the input {manifest.input['name']}, the engine "
            f"{engine} needs onnx with {PIXELS}: python -m jaxcovid.export --format=onnx"
        )
    (name,) = (name for name in manifest.files if name.endswith(".onnx"))
    try:
        load_engine = LOADERS[engine](folder / name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--engine={engine} needs {error.name}: pip install 'jaxcovid[{engine}]'"
        ) from error
    return ExportedNetwork(
        manifest=manifest,
        engine=load_engine("probability"),
        load_engine=load_engine,
        thresholds=manifest.thresholds,
        detector=load_detector(folder),
        window=manifest.window,
        hu_offset=manifest.hu_offset,
        training_facts=load_training_facts(folder),
    )


def _onnxruntime(file: Path) -> Callable[[str], Engine]:
    """The engines of ONNX Runtime; one session makes each output without the others."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    options = onnxruntime.RunOptions()
    options.only_execute_path_to_fetches = True

    def load_engine(output: str) -> Engine:
        return lambda pixels: session.run([output], {PIXELS: pixels}, options)[0]

    return functools.cache(load_engine)


def _openvino(file: Path) -> Callable[[str], Engine]:
    """The engines of OpenVINO; each output is compiled when it is asked for."""
    import openvino

    core = openvino.Core()
    model = core.read_model(file)

    def load_engine(output: str) -> Engine:
        part = openvino.Model([model.output(output)], model.get_parameters())
        # Some processors have bfloat16, which is faster and less exact.
        compiled = core.compile_model(part, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda pixels: compiled(pixels)[0]

    return functools.cache(load_engine)


LOADERS = {"onnxruntime": _onnxruntime, "openvino": _openvino}
