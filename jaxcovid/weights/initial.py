"""Where the weights that a training begins with come from: converted ones, or another training."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from jaxcovid.inference import frozen_parts
from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.runtime.sharding import make_mesh
from jaxcovid.weights.converted import FACTS_FILE, ConvertedWeights
from jaxcovid.workdir import run as runs
from jaxcovid.workdir.checkpoint_facts import open_checkpoint
from jaxcovid.workdir.run import Run
from jaxcovid.workdir.summaries import InitSummary


@dataclass(frozen=True)
class InitialWeights:
    """Weights that a training can begin with.

    Attributes:
      folder: that holds them.
      summary: where they come from.
      backbone: its name, see `backbones.BACKBONES`.
      outputs: names of those that its head was trained for.
      arrays: float32, by path in the variables, such as `params/backbone/stem_conv/kernel`.
      preprocessing: options of `preprocessing` that prepare images as they were in that training.
      growth_rate: of a densenet121, see `DeepCTNet`.
      depths: likewise.
    """

    folder: Path
    summary: InitSummary
    backbone: str
    outputs: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    growth_rate: int = DeepCTNet.growth_rate
    depths: tuple[int, ...] = DeepCTNet.depths


def open_weights(folder: Path, *, option: str = "init.weights") -> InitialWeights:
    """The weights in a folder that `convert` wrote, or of the best checkpoint of a workdir.

    Args:
      folder: that holds them.
      option: that names it, for the error.

    Raises:
      ValueError: it is neither, or damaged.
      OSError: it cannot be read.
    """
    if (folder / FACTS_FILE).exists():
        return _converted(folder)
    if (folder / runs.FILE).exists():
        return _trained(folder)
    what = "holds none" if folder.is_dir() else "does not exist"
    raise ValueError(
        f"{option} is {folder}, which {what}; give a folder that python -m jaxcovid.convert wrote, "
        "or the workdir of a training"
    )


def _converted(folder: Path) -> InitialWeights:
    weights = ConvertedWeights.read(folder)
    origin, expected = weights.origin, weights.input
    exact = {"mean": expected.preprocessing_mean, "std": expected.preprocessing_std}
    return InitialWeights(
        folder=folder,
        summary=InitSummary(
            source=f"{weights.backbone} of {origin.name}, {origin.file}",
            licence=origin.licence,
            sha256=digest(weights.variables),
        ),
        backbone=weights.backbone,
        outputs=weights.outputs,
        arrays=weights.variables,
        preprocessing={name: value for name, value in exact.items() if value is not None},
    )


def _trained(workdir: Path) -> InitialWeights:
    run, checkpoint = Run.load(workdir), open_checkpoint(workdir)
    parts = frozen_parts.carried_parts(workdir, run)
    variables = frozen_parts.load_weights(
        checkpoint,
        frozen_parts.model_with_parts(run, parts),
        make_mesh(1, devices=jax.local_devices()),  # without the other processes
        size=run.preprocessing.size,
    )
    flat = traverse_util.flatten_dict(variables, sep="/")
    arrays = {name: np.asarray(array) for name, array in flat.items()}
    options = run.config["preprocessing"]
    return InitialWeights(
        folder=workdir,
        summary=InitSummary(
            source=f"{run.config['network']} on {run.dataset.name}, step {checkpoint.step}",
            licence=run.init.licence if run.init else "",
            sha256=digest(arrays),
        ),
        backbone=run.config["model"]["backbone"],
        outputs=run.task.outputs,
        arrays=arrays,
        preprocessing={
            name: options[name] for name in ("keep_ratio", "equalize", "blur", "mean", "std")
        },
        growth_rate=run.config["model"]["growth_rate"],
        depths=tuple(run.config["model"]["depths"]),
    )


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names and values."""
    sha = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()
