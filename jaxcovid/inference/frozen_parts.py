"""The frozen parts of a network, which its workdir carries.

A part is a workdir of its own, of another run: `WORKDIR/parts/NAME` has its `run.json` and the
weights of its best checkpoint, so that a workdir is enough to evaluate and predict from.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh

from jaxcovid.data import identity
from jaxcovid.models.build import REPRESENTATIONS, make_model
from jaxcovid.runtime.files import as_path, write_atomically
from jaxcovid.runtime.sharding import replicated_sharding
from jaxcovid.workdir import run as runs
from jaxcovid.workdir.checkpoint_facts import Checkpoint, open_checkpoint
from jaxcovid.workdir.checkpoints import restore
from jaxcovid.workdir.run import Run, WorkdirError
from jaxcovid.workdir.summaries import PartSummary

FOLDER = "parts"
LUNGS = "lungs"  # the part that marks the lungs: not one of the fused, see `lung_finder`
# What decides how an image comes into a network; its parts must agree on it.
_INPUT = ("size", "keep_ratio", "equalize", "blur", "mean", "std")


@dataclass(frozen=True)
class Part:
    """A frozen part.

    Attributes:
      run: that trained it.
      checkpoint: its best one.
    """

    run: Run
    checkpoint: Checkpoint

    @property
    def model(self) -> nn.Module:
        """Its network."""
        return model_with_parts(self.run, {})

    @property
    def summary(self) -> PartSummary:
        """What the `run.json` of the whole network says of it."""
        checksums = json.dumps(self.checkpoint.facts.checksums["weights"])
        weights = hashlib.sha256(checksums.encode()).hexdigest()
        return PartSummary(
            self.run.dataset.name, self.run.task.outputs, self.checkpoint.step, weights
        )


Parts = Mapping[str, Part]  # by name


def carried_parts(workdir: Path, run: Run) -> dict[str, Part]:
    """The parts in the workdir of a run that are fused with it.

    Raises:
      ValueError: one is missing, has no validated checkpoint or does not fit the run.
    """
    return {
        name: _open(name, workdir / FOLDER / name, run.config, modality=run.dataset.modality)
        for name in sorted(run.parts)
        if name != LUNGS
    }


def find_parts(workdir: Path, config: Mapping[str, Any], *, modality: str) -> dict[str, Part]:
    """The parts in a workdir; of one that is not there yet, that of the workdir which is named.

    Args:
      workdir: of the run.
      config: its configuration; `parts` names a workdir for each part, empty for none.
      modality: of the images; see `datasets.Dataset`.

    Raises:
      ValueError: a part that is missing, has no validated checkpoint, has other outputs or was
        trained on other images or on images prepared in another way.
    """
    named = {name: part for name, part in config["parts"].items() if part["workdir"]}
    if config["network"] != "deep_cxr_net":
        if named:
            raise ValueError(
                f"parts.{min(named)}.workdir is given, but network is {config['network']}; use "
                "--config.network=deep_cxr_net"
            )
        return {}
    parts = {}
    for name, options in sorted(named.items()):
        carried = workdir / FOLDER / name
        source = carried if (carried / runs.FILE).exists() else as_path(options["workdir"])
        parts[name] = _open(name, source, config, modality=modality)
    return parts


def _open(name: str, source: Path, config: Mapping[str, Any], *, modality: str) -> Part:
    """The part in a workdir, if it fits the network that a configuration describes."""
    run = Run.load(source)
    check_answers(source, run)
    _check_part(name, source, run, config, modality=modality)
    return Part(run, open_checkpoint(source))


def _check_part(
    name: str, source: Path, run: Run, config: Mapping[str, Any], *, modality: str
) -> None:
    """Refuses a part that does not fit the network that a configuration describes."""
    if run.config["network"] != "deep_ct_net":
        raise ValueError(f"parts.{name}: {source} holds a {run.config['network']}")
    wanted = config["parts"][name]["outputs"]
    if list(run.task.outputs) != list(wanted):
        raise ValueError(
            f"parts.{name}: {source} has the outputs {', '.join(run.task.outputs)}, not "
            f"{', '.join(wanted)}; give another workdir or set --config.parts.{name}.outputs"
        )
    if modality and run.dataset.modality not in ("", modality):
        raise ValueError(
            f"parts.{name}: {source} was trained on {run.dataset.modality} images, these are "
            f"{modality}"
        )
    theirs, ours = run.config["preprocessing"], config["preprocessing"]
    keys = (*_INPUT, "fill") if ours["keep_ratio"] else _INPUT
    if different := [key for key in keys if theirs[key] != ours[key]]:
        raise ValueError(
            f"parts.{name}: {source} was trained with another preprocessing: "
            + ", ".join(f"{key} {theirs[key]}, here {ours[key]}" for key in different)
        )
    theirs, ours = (_shown(each) for each in (run.config, config))
    if theirs != ours:
        raise ValueError(
            f"parts.{name}: {source} was shown {theirs}, this network is shown {ours}; train both "
            "with the same lungs.use"
        )


def _shown(config: Mapping[str, Any]) -> str:
    """What of images the network of a configuration is shown, in words."""
    lungs = config["lungs"]
    return f"images through lungs.use={lungs['use']}" if lungs["workdir"] else "whole images"


def check_answers(workdir: Path, run: Run) -> None:
    """Refuses a run whose network has learned a representation, but no answer to anything.

    Raises:
      WorkdirError: says what to do with it.
    """
    objective = run.config["objective"]
    if objective in REPRESENTATIONS:
        raise WorkdirError(
            f"{workdir} was trained with objective={objective} and has no classifier; train one "
            f"that begins with its backbone: --config.init.weights={workdir} "
            f"--config.model.backbone={run.config['model']['backbone']}"
        )


def model_with_parts(run: Run, parts: Parts) -> nn.Module:
    """The network of a run, with its frozen parts."""
    return make_model(
        run.config,
        outputs=len(run.task.outputs),
        exclusive=run.task.exclusive,
        parts={name: part.model for name, part in parts.items()},
        teachers={name: dataclasses.asdict(each) for name, each in run.teachers.items()},
    )


def carry_parts(workdir: Path, parts: Parts) -> None:
    """Copies the parts that are not in the workdir yet into it.

    Raises:
      OSError: one cannot be copied.
    """
    for name, part in parts.items():
        target = workdir / FOLDER / name
        if (target / runs.FILE).exists():
            continue
        source = part.checkpoint.workdir
        for file in part.checkpoint.folder.rglob("*"):
            inside = file.relative_to(source)
            if file.is_file() and "optimizer" not in inside.parts:
                (target / inside).parent.mkdir(parents=True, exist_ok=True)
                (target / inside).write_bytes(file.read_bytes())
        for folder in (source, *sorted((source / identity.INIT_FOLDER).glob("*"))):
            hashes = folder / identity.TRAINED_ON_FILE
            if hashes.exists():
                inside = target / hashes.relative_to(source)
                inside.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(inside, hashes.read_bytes())
        # Last, so that a part that has it is whole.
        write_atomically(target / runs.FILE, (source / runs.FILE).read_bytes())
        logging.info("%s: checkpoint %d of %s, frozen", name, part.checkpoint.step, source)


def load_parts(parts: Parts, mesh: Mesh, *, size: int) -> dict[str, Any]:
    """Variables of frozen parts by name, verified, replicated over the mesh.

    Args:
      parts: to load.
      mesh: the devices.
      size: of the input images, px.

    Raises:
      CheckpointError: one is missing or damaged.
    """
    return {
        name: load_weights(part.checkpoint, part.model, mesh, size=size)
        for name, part in parts.items()
    }


def load_weights(
    checkpoint: Checkpoint, model: nn.Module, mesh: Mesh, *, size: int
) -> dict[str, Any]:
    """`params` and `batch_stats` of a checkpoint, verified, replicated over the mesh.

    Args:
      checkpoint: to read.
      model: the network of its run.
      mesh: the devices.
      size: of the input images, px.

    Raises:
      CheckpointError: it is damaged, of another network or cannot be read.
    """
    image = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated_sharding(mesh)),
        {name: shapes.get(name, {}) for name in ("params", "batch_stats")},
    )
    return restore(checkpoint, {"weights": target})["weights"]
