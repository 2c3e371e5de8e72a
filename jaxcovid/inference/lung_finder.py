"""The network that marks the lungs, so that another one is shown them alone.

It is a part of the other network, which carries it in `WORKDIR/parts/lungs`. It looks at images as
they come, after an ablation: what an ablation takes away helps neither of the two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxcovid.data.ablations import Ablation
from jaxcovid.data.datasets import Record
from jaxcovid.data.decoding import decode_gray
from jaxcovid.data.image_error import ImageError
from jaxcovid.data.lung_focus import FocusedSource, LungFocus, View
from jaxcovid.data.pipeline import Loading
from jaxcovid.inference.forward import jit_rows, mark_lungs
from jaxcovid.inference.frozen_parts import FOLDER, LUNGS, Part, load_weights
from jaxcovid.inference.predict_source import predict_inputs, predict_source
from jaxcovid.models.build import MASKED
from jaxcovid.runtime.files import as_path
from jaxcovid.workdir import run as runs
from jaxcovid.workdir.checkpoint_facts import open_checkpoint
from jaxcovid.workdir.run import Run

_BATCH = 8  # images at once, at least: the same in training and prediction


@dataclass(frozen=True)
class LungFinder:
    """Marks the lungs, and says what is shown of images.

    Attributes:
      focus: what is shown of them.
      variables: of the network, on the devices.
      forward: compiled, see `forward.mark_lungs`.
      mesh: the devices.
    """

    focus: LungFocus
    variables: Mapping[str, Any]
    forward: Any
    mesh: Mesh

    def views(self, grays: Sequence[np.ndarray]) -> list[View]:
        """What is shown of images uint8 [h, w]."""
        bits = predict_inputs(
            [self.focus.marked(gray) for gray in grays],
            lambda batch: self.forward(self.variables, batch),
            batch_size=self._batch_size,
            mesh=self.mesh,
        )
        return [
            self.focus.view(gray.shape, self.focus.clean(row))
            for gray, row in zip(grays, bits, strict=True)
        ]

    def mark(
        self, source: Sequence[Record], *, ablation: Ablation | None = None, workers: int = 0
    ) -> np.ndarray:
        """The lungs of all records, see `LungFocus.clean`: uint8 [n, size * size / 8].

        Each process of several works on its share of the records and gets the marks of all.

        Args:
          source: the records. An image that cannot be read counts as black: whoever needs it will
            notice.
          ablation: alters the images.
          workers: processes that prepare images; 0 uses threads.
        """
        bits = predict_source(
            self.variables,
            _Readable(source),
            forward=self.forward,
            loading=Loading(
                preprocessing=self.focus.marked,
                batch_size=self._batch_size,
                ablation=ablation,
                workers=workers,
            ),
            mesh=self.mesh,
        )
        return np.stack([self.focus.clean(row) for row in bits])

    def focused(
        self, source: Sequence[Record], *, ablation: Ablation | None = None, workers: int = 0
    ) -> FocusedSource:
        """The records with what is shown of them; see `mark`."""
        bits = self.mark(source, ablation=ablation, workers=workers)
        return FocusedSource(source, self.focus, bits)

    @property
    def _batch_size(self) -> int:
        return -(-_BATCH // self.mesh.size) * self.mesh.size


@dataclass(frozen=True)
class _Readable(Sequence[Any]):
    """Records of which one that cannot be read has a black pixel as its image."""

    source: Sequence[Record]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Record:
        try:
            record = self.source[index]
            return record if "gray" in record else {**record, "gray": decode_gray(record["image"])}
        except ImageError:
            return {"id": str(index), "gray": np.zeros((1, 1), np.uint8)}


def find_lungs(workdir: Path, config: Mapping[str, Any], *, modality: str) -> Part | None:
    """The part that marks the lungs: that of the workdir, else that of the workdir it names.

    Args:
      workdir: of the run.
      config: its configuration.
      modality: of the images; see `datasets.Dataset`.

    Returns:
      None if whole images are shown.

    Raises:
      ValueError: `lungs.workdir` holds no network that fits, or has no validated checkpoint, or
        `lungs.use` is unknown.
    """
    if not config["lungs"]["workdir"]:
        return None
    carried = workdir / FOLDER / LUNGS
    source = carried if (carried / runs.FILE).exists() else as_path(config["lungs"]["workdir"])
    return _open(source, config, modality=modality)


def carried_lungs(workdir: Path, run: Run) -> Part | None:
    """The part in the workdir of a run; None if whole images are shown.

    Raises:
      ValueError: it is missing; see also `find_lungs`.
    """
    if LUNGS not in run.parts:
        return None
    return _open(workdir / FOLDER / LUNGS, run.config, modality=run.dataset.modality)


def _open(source: Path, config: Mapping[str, Any], *, modality: str) -> Part:
    """The part in a workdir, if it can mark the lungs of the images of a configuration."""
    run = Run.load(source)
    if run.config["objective"] not in MASKED:
        raise ValueError(
            f"lungs.workdir: {source} has no decoder; give a workdir that was trained with "
            "--config.objective=segmentation or joint"
        )
    if LUNGS in run.parts:
        raise ValueError(
            f"lungs.workdir: {source} is shown the lungs that another network marks; give one that "
            "was trained on whole images"
        )
    if modality and run.dataset.modality not in ("", modality):
        raise ValueError(
            f"lungs.workdir: {source} was trained on {run.dataset.modality} images, these are "
            f"{modality}"
        )
    focus_of(run, config)  # refuses an unknown use
    return Part(run, open_checkpoint(source))


def open_finder(part: Part, config: Mapping[str, Any], mesh: Mesh) -> LungFinder:
    """Loads the network that marks the lungs.

    Args:
      part: see `find_lungs`.
      config: the configuration of the run that is shown them.
      mesh: the devices.

    Raises:
      CheckpointError: its checkpoint is damaged.
    """
    size = part.run.preprocessing.size
    return LungFinder(
        focus=focus_of(part.run, config),
        variables=load_weights(part.checkpoint, part.model, mesh, size=size),
        forward=jit_rows(mark_lungs, mesh, model=part.model),
        mesh=mesh,
    )


def focus_of(run: Run, config: Mapping[str, Any]) -> LungFocus:
    """What is shown where the network of a run marks the lungs.

    Args:
      run: of the network that marks them.
      config: see `find_lungs`.
    """
    fill = config["preprocessing"]["fill"]
    return LungFocus(config["lungs"]["use"], fill, run.preprocessing)
