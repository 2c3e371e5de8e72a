"""The teachers of a distillation: the backbones of other networks, frozen.

A workdir carries them, in `WORKDIR/teachers/NAME.safetensors`, so that its run resumes as the same
whatever became of their folders. Nothing else reads them: after the training they may be deleted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from absl import logging
from flax import traverse_util
from jax.sharding import Mesh

from jaxcovid.runtime.files import as_path, write_atomically
from jaxcovid.runtime.sharding import replicated_sharding
from jaxcovid.weights.files.safetensors_file import read_safetensors
from jaxcovid.weights.initial import InitialWeights, digest, open_weights
from jaxcovid.workdir import run as runs
from jaxcovid.workdir.run import Run
from jaxcovid.workdir.summaries import TeacherSummary

FOLDER = "teachers"


@dataclass(frozen=True)
class TeacherWeights:
    """A teacher.

    Attributes:
      summary: what `run.json` says of it.
      arrays: of its backbone, by path, see `initial.InitialWeights`.
      training: the workdir that it is from; None of converted weights, or if it is carried.
    """

    summary: TeacherSummary
    arrays: Mapping[str, np.ndarray]
    training: Path | None = None


Teachers = Mapping[str, TeacherWeights]  # by name


def find(workdir: Path, config: Mapping[str, Any]) -> dict[str, TeacherWeights]:
    """The teachers that a workdir carries; of a run that has not begun, those in named folders.

    Args:
      workdir: of the run.
      config: its configuration; read are `objective`, `distillation` and `preprocessing`.

    Raises:
      ValueError: a distillation without teachers, teachers of another objective, or a folder
        without weights.
      OSError: they cannot be read.
    """
    folders: Sequence[str] = config["distillation"]["teachers"]
    distils = config["objective"] == "distillation"
    if distils and not folders:
        raise ValueError(
            "objective=distillation needs --config.distillation.teachers=\"('DIR',)\", folders "
            "that python -m jaxcovid.convert wrote, or workdirs of trainings"
        )
    if folders and not distils:
        raise ValueError(
            f"distillation.teachers has {len(folders)} folders, but objective is "
            f"{config['objective']}; use --config.objective=distillation"
        )
    if distils and (workdir / runs.FILE).exists():
        return _carried(workdir, Run.load(workdir))
    return {
        f"teacher{number}": _open(as_path(folder), config["preprocessing"])
        for number, folder in enumerate(folders, start=1)
    }


def _open(folder: Path, preprocessing: Mapping[str, Any]) -> TeacherWeights:
    """The backbone of the weights in a folder.

    Args:
      folder: see `initial.open_weights`.
      preprocessing: of the student; teachers that do not say what they saw see the same.
    """
    weights = open_weights(folder, option="distillation.teachers")
    arrays = {name: x for name, x in weights.arrays.items() if name.split("/")[1] == "backbone"}
    theirs = {**preprocessing, **weights.preprocessing}
    names = ("keep_ratio", "equalize", "blur")  # mean and std can be made theirs
    if different := [name for name in names if theirs[name] != preprocessing[name]]:
        logging.warning(
            "The images of the teacher %s were prepared in another way: %s",
            folder,
            ", ".join(f"{name} {theirs[name]}, here {preprocessing[name]}" for name in different),
        )
    is_training = (folder / runs.FILE).exists()
    return TeacherWeights(
        _summary(weights, arrays, theirs), arrays, folder if is_training else None
    )


def _summary(
    weights: InitialWeights, arrays: Mapping[str, np.ndarray], preprocessing: Mapping[str, Any]
) -> TeacherSummary:
    return TeacherSummary(
        source=weights.summary.source,
        licence=weights.summary.licence,
        sha256=digest(arrays),
        backbone=weights.backbone,
        growth_rate=weights.growth_rate,
        depths=weights.depths,
        mean=preprocessing["mean"],
        std=preprocessing["std"],
    )


def _carried(workdir: Path, run: Run) -> dict[str, TeacherWeights]:
    """The teachers in the workdir of a run that has begun, verified."""
    teachers = {}
    for name, summary in run.teachers.items():
        path = _path(workdir, name)
        try:
            arrays = read_safetensors(path.read_bytes()).arrays
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}, a teacher of this run, cannot be read: {error}") from error
        if digest(arrays) != summary.sha256:
            raise ValueError(
                f"{path} does not hold the teacher that this run began with, {summary.source}: "
                "its checksum differs; restore it, or give a new --workdir"
            )
        teachers[name] = TeacherWeights(summary, arrays)
    return teachers


def carry(workdir: Path, teachers: Teachers) -> None:
    """Writes teachers into the workdir of a new run.

    Raises:
      OSError: they cannot be written.
    """
    for name, teacher in teachers.items():
        path = _path(workdir, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {key: np.ascontiguousarray(array) for key, array in teacher.arrays.items()}
        write_atomically(path, safetensors.numpy.save(arrays))
        licence = teacher.summary.licence or "unknown"
        logging.info("%s: %s (licence: %s), frozen", name, teacher.summary.source, licence)


def place(teachers: Teachers, mesh: Mesh) -> dict[str, Any]:
    """The variables of teachers by name, replicated over the mesh."""
    trees = {
        name: traverse_util.unflatten_dict(dict(teacher.arrays), sep="/")
        for name, teacher in teachers.items()
    }
    return jax.device_put(trees, replicated_sharding(mesh))


def _path(workdir: Path, name: str) -> Path:
    return workdir / FOLDER / f"{name}.safetensors"
