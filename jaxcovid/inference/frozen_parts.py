"""The network that a configuration describes, and the frozen parts that a workdir carries.

A part is a workdir of its own, of another run: `WORKDIR/parts/NAME` has its `run.json` and the
weights of its best checkpoint, so that a workdir is enough to evaluate and predict from.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh

from jaxcovid.data import identity
from jaxcovid.models import build
from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.runtime.files import as_path, write_atomically
from jaxcovid.runtime.sharding import replicated_sharding
from jaxcovid.workdir import checkpoints
from jaxcovid.workdir import run as workdirs

FOLDER = "parts"
# What decides how an image comes into a network; its parts must agree on it.
_INPUT = ("size", "keep_ratio", "mean", "std")


def make_model(
    config: Mapping[str, Any], *, outputs: int, parts: Mapping[str, Mapping[str, Any]]
) -> DeepCTNet:
    """The network of a configuration.

    Args:
      config: see `configs/default.py`.
      outputs: number of logits.
      parts: facts of its frozen parts by name, see `part_facts`.

    Raises:
      ValueError: an option that is not there or out of its range.
    """
    model = {**config["model"]}
    if "growth" in model:  # the name of `growth_rate` before
        model["growth_rate"] = model.pop("growth")
    frozen = {
        name: make_model(facts["config"], outputs=len(facts["outputs"]), parts={})
        for name, facts in parts.items()
    }
    return build.make_model(
        {**config, "model": model},
        outputs=outputs,
        exclusive=config["outputs"] == "two_way",
        parts=frozen,
    )


def part_facts(
    workdir: Path, config: Mapping[str, Any], *, modality: str
) -> dict[str, dict[str, Any]]:
    """Facts of the frozen parts by name: those of the part's `run.json`, `step` and `checksums`.

    They are those of the parts in the workdir; of a part that is not there yet, those of the
    workdir that the configuration names.

    Args:
      workdir: of the run.
      config: its configuration; `parts` names a workdir for each part, empty for none.
      modality: of the images; see `datasets.Dataset`.

    Raises:
      ValueError: a part that is missing, has no validated checkpoint, tells of other outputs or
        was trained on other images or on images prepared in another way.
    """
    named = {name: part for name, part in config["parts"].items() if part["workdir"]}
    if config["network"] != "deep_cxr_net":
        if named:
            raise ValueError(
                f"parts.{min(named)}.workdir is given, but network is {config['network']}; use "
                "--config.network=deep_cxr_net"
            )
        return {}
    found = {}
    for name, part in sorted(named.items()):
        carried = as_path(workdir) / FOLDER / name
        source = carried if (carried / workdirs.FILE).exists() else as_path(part["workdir"])
        facts = workdirs.read(source)
        if facts["config"]["network"] != "deep_ct_net":
            raise ValueError(f"parts.{name}: {source} holds a {facts['config']['network']}")
        wanted = list(part["outputs"])
        if facts["outputs"] != wanted:
            raise ValueError(
                f"parts.{name}: {source} tells of {', '.join(facts['outputs'])}, not of "
                f"{', '.join(wanted)}; give another workdir or set --config.parts.{name}.outputs"
            )
        if modality and facts["dataset"]["modality"] not in ("", modality):
            raise ValueError(
                f"parts.{name}: {source} was trained on {facts['dataset']['modality']} images, "
                f"these are {modality}"
            )
        theirs, ours = facts["config"]["preprocessing"], config["preprocessing"]
        keys = (*_INPUT, "fill") if ours["keep_ratio"] else _INPUT
        if different := [key for key in keys if theirs[key] != ours[key]]:
            raise ValueError(
                f"parts.{name}: {source} was trained with another preprocessing: "
                + ", ".join(f"{key} {theirs[key]}, here {ours[key]}" for key in different)
            )
        step = checkpoints.best_step(source)
        checksums = checkpoints.read_facts(source, step)["checksums"]["weights"]
        found[name] = {**facts, "step": step, "checksums": checksums}
    return found


def carry_parts(
    workdir: Path, config: Mapping[str, Any], facts: Mapping[str, Mapping[str, Any]]
) -> None:
    """Copies the parts of `part_facts` that are not in the workdir yet.

    Raises:
      OSError: one cannot be copied.
    """
    for name, part in facts.items():
        source = as_path(config["parts"][name]["workdir"])
        target = as_path(workdir) / FOLDER / name
        if (target / workdirs.FILE).exists():
            continue
        checkpoint = source / checkpoints.FOLDER / str(part["step"])
        for file in checkpoint.rglob("*"):
            inside = file.relative_to(source)
            if file.is_file() and "optimizer" not in inside.parts:
                (target / inside).parent.mkdir(parents=True, exist_ok=True)
                (target / inside).write_bytes(file.read_bytes())
        if (source / identity.TRAINED_ON_FILE).exists():
            hashes = (source / identity.TRAINED_ON_FILE).read_bytes()
            write_atomically(target / identity.TRAINED_ON_FILE, hashes)
        # Last, so that a part that has it is whole.
        write_atomically(target / workdirs.FILE, (source / workdirs.FILE).read_bytes())
        logging.info("%s: checkpoint %d of %s, frozen", name, part["step"], source)


def trained_on(workdir: Path, model: nn.Module) -> dict[str, list[identity.Identities]]:
    """Hashes of the images and patients that a network and its frozen parts have learned from.

    Args:
      workdir: of the run.
      model: its network.

    Returns:
      Of the splits `train` and `validation` those of each training. The splits of an early version,
      which kept none, are left out with a warning.

    Raises:
      ValueError: a file of them is damaged.
    """
    workdir = as_path(workdir)
    used: dict[str, list[identity.Identities]] = {"train": [], "validation": []}
    for folder in (
        workdir,
        *(workdir / FOLDER / part.name for part in getattr(model, "parts", ())),
    ):
        if not (folder / identity.TRAINED_ON_FILE).exists():
            logging.warning(
                "%s does not say which images it was trained on (an earlier version wrote it): "
                "whether this is a test is not checked",
                folder,
            )
            continue
        for split, identities in identity.load(folder / identity.TRAINED_ON_FILE).items():
            used[split].append(identities)
    return used


def load_parts(workdir: Path, model: nn.Module, mesh: Mesh, *, size: int) -> dict[str, Any]:
    """Variables of the frozen parts that a workdir carries, verified, replicated over the mesh.

    Args:
      workdir: of the run.
      model: its network.
      mesh: the devices.
      size: of its input images, px.

    Raises:
      CheckpointError: one is missing or damaged.
    """
    found = {}
    for part in getattr(model, "parts", ()):
        source = as_path(workdir) / FOLDER / part.name
        found[part.name] = load_weights(
            source, checkpoints.best_step(source), part.model, mesh, size=size
        )
    return found


def load_weights(
    workdir: Path, step: int, model: nn.Module, mesh: Mesh, *, size: int
) -> dict[str, Any]:
    """`params` and `batch_stats` of a checkpoint, verified, replicated over the mesh.

    Args: as those of `load_parts`, and the step of the checkpoint.

    Raises:
      CheckpointError: it is missing, damaged, or of another network.
    """
    image = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated_sharding(mesh)),
        {name: shapes.get(name, {}) for name in ("params", "batch_stats")},
    )
    return checkpoints.restore(workdir, step, {"weights": target})["weights"]


def part_summaries(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `run.json` says of the parts: data set, outputs, step and a digest of its weights."""
    return {
        name: {
            "dataset": part["dataset"]["name"],
            "outputs": part["outputs"],
            "step": part["step"],
            "weights": hashlib.sha256(json.dumps(part["checksums"]).encode()).hexdigest(),
        }
        for name, part in facts.items()
    }
