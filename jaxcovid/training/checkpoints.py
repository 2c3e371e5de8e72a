"""Checkpoints that survive kills, damaged files and full disks; the only module that knows orbax.

A checkpoint `WORKDIR/checkpoints/STEP` has three items: `weights` (parameters and running moments),
`optimizer`, and `facts`, a JSON with the format version, a CRC-32 of every array and the history of
validations so far. Orbax does not notice a flipped byte, hence the checksums.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers as policies

from jaxcovid.files import as_path
from jaxcovid.training.state import TrainState
from jaxcovid.workdir import read_json

FORMAT_VERSION = 1
FOLDER = "checkpoints"

History = list[
    dict[str, Any]
]  # one entry a validation: {"step", "auc", "loss", "temperature", ...}


_copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another network or version."""


def checksums(tree: Any) -> dict[str, int]:
    """CRC-32 of the bytes of every array of a pytree, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf)) for path, leaf in leaves
    }


def _items(state: TrainState) -> dict[str, Any]:
    weights = {"params": state.params, "batch_stats": state.batch_stats}
    return {"weights": weights, "optimizer": state.opt_state}


def steps(workdir: Path) -> list[int]:
    """Steps of the finished checkpoints of a workdir, ascending."""
    folder = as_path(workdir) / FOLDER
    return sorted(ocp.utils.checkpoint_steps(folder)) if folder.is_dir() else []


def read_facts(workdir: Path, step: int) -> dict[str, Any]:
    """The facts of a checkpoint: `format_version`, `step`, `checksums`, `history`.

    Raises:
      CheckpointError: it is missing, unreadable, or written by a newer format.
    """
    path = as_path(workdir) / FOLDER / str(step) / "facts" / "metadata"
    damaged = f"checkpoint {step} of {workdir} is damaged"
    try:
        facts = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{damaged}: {error}") from error
    version = facts.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {step} of {workdir} has format {version}, this version of jaxcovid reads "
            f"up to {FORMAT_VERSION}; use a newer one"
        )
    if wrong := _wrong_in(facts):
        raise CheckpointError(f"{damaged}: its {wrong} is missing or no such thing")
    return facts


def _wrong_in(facts: Mapping[str, Any]) -> str:
    """What of a checkpoint's facts has another type than it should; empty if nothing has."""
    sums, history = facts.get("checksums"), facts.get("history")
    if not all(type(facts.get(name)) is int for name in ("format_version", "step")):
        return "format_version or step"
    if not isinstance(sums, dict) or not all(isinstance(of, dict) for of in sums.values()):
        return "checksums"
    for entry in history if isinstance(history, list) else [None]:
        if (
            not isinstance(entry, dict)
            or type(entry.get("step")) is not int
            or not isinstance(entry.get("auc"), int | float)
            or not isinstance(entry.get("temperature", 1.0), int | float)
            or not isinstance(thresholds := entry.get("thresholds", {}), dict)
            or not all(isinstance(value, int | float) for value in thresholds.values())
        ):
            return "history"
    return ""


def validation_of(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The validation at a checkpoint's own step, None if there was none."""
    history = facts["history"]
    return history[-1] if history and history[-1]["step"] == facts["step"] else None


def best_step(workdir: Path) -> int:
    """The validated step of highest validation AUC; the later one of a tie.

    Raises:
      CheckpointError: there is no checkpoint, or none was validated.
    """
    validations = [validation_of(read_facts(workdir, step)) for step in steps(workdir)]
    ranked = [(entry["auc"], entry["step"]) for entry in validations if entry]
    if not ranked:
        raise CheckpointError(
            f"no validated checkpoint in {workdir}; train until the first validation"
        )
    return max(ranked)[1]


def restore(workdir: Path, step: int, targets: Mapping[str, Any]) -> dict[str, Any]:
    """Items of one checkpoint, `weights` and/or `optimizer`, verified by their checksums.

    Args:
      workdir: of a training run.
      step: one of `steps`.
      targets: for each item a pytree of `jax.ShapeDtypeStruct` with sharding.

    Raises:
      CheckpointError: missing, damaged, or of another network.
    """
    if step not in steps(workdir):
        raise CheckpointError(f"no checkpoint {step} in {workdir}; there are {steps(workdir)}")
    facts = read_facts(workdir, step)
    restored = {}
    with ocp.StandardCheckpointer() as checkpointer:
        for name, target in targets.items():
            path = (as_path(workdir) / FOLDER / str(step) / name).resolve()
            try:
                restored[name] = checkpointer.restore(path, target)
            except Exception as error:  # orbax, tensorstore and zarr each raise their own kinds
                raise CheckpointError(
                    f"checkpoint {step} of {workdir} is damaged or of another network: "
                    f"{str(error).strip().splitlines()[0]}"
                ) from error
            stored, found = facts["checksums"].get(name, {}), checksums(restored[name])
            if bad := [key for key in {**stored, **found} if found.get(key) != stored.get(key)]:
                raise CheckpointError(
                    f"checkpoint {step} of {workdir} is damaged: {len(bad)} of {len(stored)} "
                    f"checksums of its {name} differ, first {bad[0]}"
                )
    return restored


class Checkpoints:
    """Saves checkpoints in the background and keeps the latest two and the best.

    Use as a context manager; leaving it waits for the last save and reports its errors.
    """

    def __init__(self, workdir: Path) -> None:
        """Opens `workdir/checkpoints`, creating it if missing."""
        self.workdir = as_path(workdir)
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(2),
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics["auc"],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._manager = ocp.CheckpointManager(
            (self.workdir / FOLDER).resolve(),
            item_names=("weights", "optimizer", "facts"),
            options=ocp.CheckpointManagerOptions(preservation_policy=keep),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, state: TrainState, history: History) -> None:
        """Starts to write a checkpoint of `state`, unless one of its step exists.

        Args:
          state: copied before this returns, so that its buffers may be donated afterwards.
          history: all validations so far; one at this step ranks the checkpoint.

        Raises:
          OSError: the previous checkpoint could not be written (a full disk).
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        # Whole on every device, so that a checkpoint fits any number of them.
        items = jax.device_put(_copy(_items(state)), state.step.sharding)
        facts = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "checksums": {name: checksums(item) for name, item in items.items()},
            "history": history,
        }
        validation = validation_of(facts)
        self._manager.save(
            step,
            metrics={"auc": validation["auc"]} if validation else None,
            args=ocp.args.Composite(
                facts=ocp.args.JsonSave(facts),
                **{name: ocp.args.StandardSave(item) for name, item in items.items()},
            ),
        )

    def restore_latest(self, target: TrainState) -> tuple[TrainState, History] | None:
        """The newest intact checkpoint and all validations up to it; None if there is none at all.

        Damaged newer ones are named in the log and deleted, so that their steps can be saved again.

        Args:
          target: a state of the wanted shapes, dtypes and shardings; its `frozen` is passed on.

        Raises:
          CheckpointError: checkpoints exist, but none is intact.
        """
        whole = target.step.sharding
        targets = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), _items(target)
        )
        damaged: list[int] = []
        for step in reversed(steps(self.workdir)):
            try:
                items = restore(self.workdir, step, targets)
            except CheckpointError as error:
                logging.warning("%s; trying the one before it", error)
                damaged.append(step)
                continue
            for bad in damaged:
                self._manager.delete(bad)
            count = jax.device_put(np.int32(step), whole)
            history = read_facts(self.workdir, step)["history"]
            items = jax.device_put(items, jax.tree.map(lambda x: x.sharding, _items(target)))
            state = target.replace(step=count, **items["weights"], opt_state=items["optimizer"])
            return state, history
        if damaged:
            raise CheckpointError(
                f"none of the checkpoints {damaged} of {self.workdir} is intact; restore one from "
                f"a backup, or delete {self.workdir / FOLDER} to start over"
            )
        return None
