"""Checkpoints that survive kills, damaged files and full disks; the only module that knows orbax.

A checkpoint `WORKDIR/checkpoints/STEP` has three items: `weights` (parameters and running moments),
`optimizer`, and `facts`, a JSON with the format version, a CRC-32 of every array and the history of
validations so far. Orbax does not notice a flipped byte, hence the checksums. A damaged checkpoint
is moved to `WORKDIR/checkpoints.damaged/STEP`; an intact one is deleted only for newer ones.
"""

import dataclasses
import itertools
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from jaxcovid.runtime.files import as_path, write_atomically
from jaxcovid.training.state import TrainState
from jaxcovid.workdir.run import read_json

FORMAT_VERSION = 1
FOLDER = "checkpoints"
DAMAGED_FOLDER = "checkpoints.damaged"

History = list[
    dict[str, Any]
]  # one entry a validation: {"step", "auc", "loss", "temperature", ...}


_copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, of another network or version, or cannot be read."""


class DamagedError(CheckpointError):
    """A checkpoint that no further attempt will read: a checksum, a missing file or its format."""


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
      DamagedError: it is missing, or no such thing.
      CheckpointError: it cannot be read, or was written by a newer format.
    """
    try:
        facts = read_json(_facts_path(workdir, step))
    except (OSError, ValueError, MemoryError) as error:
        raise _unreadable(workdir, step, error) from error
    version = facts.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {step} of {workdir} has format {version}, this version of jaxcovid reads "
            f"up to {FORMAT_VERSION}; use a newer one"
        )
    if wrong := _wrong_in(facts):
        raise DamagedError(
            f"checkpoint {step} of {workdir} is damaged: its {wrong} is missing or no such thing"
        )
    return facts


def _facts_path(workdir: Path, step: int) -> Path:
    return as_path(workdir) / FOLDER / str(step) / "facts" / "metadata"


def _unreadable(workdir: Path, step: int, error: Exception) -> CheckpointError:
    """What an error while a checkpoint was read says of it."""
    speaking: BaseException = error
    while type(speaking) is Exception and speaking.__cause__:  # orbax's, around the one that counts
        speaking = speaking.__cause__
    said = (str(speaking).strip().splitlines() or [type(speaking).__name__])[0]
    if _is_damage(error):
        return DamagedError(
            f"checkpoint {step} of {workdir} is damaged or of another network: {said}"
        )
    return CheckpointError(
        f"checkpoint {step} of {workdir} cannot be read: {said}. It is left as it is; try again "
        "when the cause is gone"
    )


# As tensorstore's errors begin, which are ValueErrors of a status code and a text.
_DAMAGE_CODES = (
    "NOT_FOUND",
    "OUT_OF_RANGE",
    "DATA_LOSS",
    "FAILED_PRECONDITION",
    "INVALID_ARGUMENT",
)


def _is_damage(error: BaseException | None) -> bool:
    """True of a missing file or a wrong format; False where another attempt may succeed.

    Orbax wraps what tensorstore says, so that all causes count: what the operating system reports
    (other than a missing file), memory that runs out and what JAX raises are no damage.
    """
    damage = False
    while error is not None:
        if isinstance(error, FileNotFoundError):
            damage = True
        elif isinstance(error, OSError | MemoryError | RuntimeError):
            return False
        elif isinstance(error, ValueError | LookupError | TypeError):
            code = re.match("([A-Z_]+): ", str(error))
            if "os_error_code=" in str(error) or (code and code[1] not in _DAMAGE_CODES):
                return False
            damage = True
        error = error.__cause__ or error.__context__
    return damage


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

    Damaged checkpoints do not count: a run that is killed may leave an old one half deleted.

    Raises:
      CheckpointError: there is no checkpoint, or none was validated.
    """
    ranked = []
    for step in steps(workdir):
        try:
            entry = validation_of(read_facts(workdir, step))
        except DamagedError as error:
            logging.warning("%s; it does not count", error)
            continue
        if entry:
            ranked.append((entry["auc"], step))
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
      DamagedError: damaged, or of another network.
      CheckpointError: missing, or it cannot be read for another reason, which is the cause.
    """
    if step not in steps(workdir):
        raise CheckpointError(f"no checkpoint {step} in {workdir}; there are {steps(workdir)}")
    facts = read_facts(workdir, step)
    restored = {}
    # Not a checkpointer, which would let processes wait for one that has failed.
    handler = ocp.StandardCheckpointHandler()
    try:
        for name, target in targets.items():
            path = (as_path(workdir) / FOLDER / str(step) / name).resolve()
            try:
                restored[name] = handler.restore(path, args=ocp.args.StandardRestore(target))
                stored, found = facts["checksums"].get(name, {}), checksums(restored[name])
            except Exception as error:  # orbax, tensorstore, zarr and JAX each raise their own
                raise _unreadable(workdir, step, error) from error
            if bad := [key for key in {**stored, **found} if found.get(key) != stored.get(key)]:
                raise DamagedError(
                    f"checkpoint {step} of {workdir} is damaged: {len(bad)} of {len(stored)} "
                    f"checksums of its {name} differ, first {bad[0]}"
                )
    finally:
        handler.close()
    return restored


def _set_aside(workdir: Path, step: int) -> Path:
    """Moves a damaged checkpoint to where it is in nobody's way; returns its new path.

    Raises:
      OSError: it cannot be moved.
    """
    folder = as_path(workdir) / DAMAGED_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    names = (f"{step}.{i}" if i else str(step) for i in itertools.count())
    target = next(folder / name for name in names if not (folder / name).exists())
    (as_path(workdir) / FOLDER / str(step)).rename(target)
    return target


class _LatestTwoAndBest:
    """Which checkpoints are kept; orbax's own policies forget validations of earlier processes."""

    def __init__(self) -> None:
        self.history: History = []

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """For each checkpoint, in ascending order of their steps, whether it is kept."""
        del context
        there = [checkpoint.step for checkpoint in checkpoints]
        ranked = [(entry["auc"], entry["step"]) for entry in self.history if entry["step"] in there]
        kept = {*there[-2:], *(step for _, step in sorted(ranked)[-1:])}
        return [step in kept for step in there]


class Checkpoints:
    """Saves checkpoints in the background and keeps the latest two and the best.

    Use as a context manager; leaving it waits for the last save and reports its errors.
    """

    def __init__(self, workdir: Path) -> None:
        """Opens `workdir/checkpoints`, creating it if missing."""
        self.workdir = as_path(workdir)
        self._keep = _LatestTwoAndBest()
        self._manager = ocp.CheckpointManager(
            (self.workdir / FOLDER).resolve(),
            item_names=("weights", "optimizer", "facts"),
            options=ocp.CheckpointManagerOptions(preservation_policy=self._keep),
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
        self._keep.history = history
        self._manager.save(
            step,
            args=ocp.args.Composite(
                facts=ocp.args.JsonSave(facts),
                **{name: ocp.args.StandardSave(item) for name, item in items.items()},
            ),
        )

    def add_validation(self, history: History) -> None:
        """Adds the validation that ends `history` to the checkpoint of its step, the newest.

        Its facts are replaced as a whole: whenever the process is killed, it is intact, with the
        validation or without.

        Raises:
          OSError: it could not be written (a full disk).
        """
        self._manager.wait_until_finished()
        step = history[-1]["step"]
        if jax.process_index() == 0:
            facts = {**read_facts(self.workdir, step), "history": history}
            write_atomically(_facts_path(self.workdir, step), json.dumps(facts).encode())
        self._keep.history = history

    def restore_latest(self, target: TrainState) -> tuple[TrainState, History] | None:
        """The newest intact checkpoint and all validations up to it; None if there is none at all.

        Damaged newer ones are named in the log and moved to `DAMAGED_FOLDER`, so that their steps
        can be saved again. All processes restore the same step.

        Args:
          target: a state of the wanted shapes, dtypes and shardings; its `frozen` is passed on.

        Raises:
          CheckpointError: checkpoints exist, but none is intact, or one cannot be read for a reason
            that may pass; nothing was changed.
        """
        whole = target.step.sharding
        targets = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), _items(target)
        )
        damaged: list[int] = []
        while (step := self._newest_but(damaged)) is not None:
            restored = self._restore_together(step, targets)
            if restored is None:
                damaged.append(step)
                continue
            self._set_aside(damaged)
            items, history = restored
            self._keep.history = history
            count = jax.device_put(np.int32(step), whole)
            items = jax.device_put(items, jax.tree.map(lambda x: x.sharding, _items(target)))
            state = dataclasses.replace(
                target, step=count, **items["weights"], opt_state=items["optimizer"]
            )
            return state, history
        if damaged:
            raise CheckpointError(
                f"none of the checkpoints {damaged} of {self.workdir} is intact; restore one from "
                f"a backup, or delete {self.workdir / FOLDER} to start over"
            )
        return None

    def _newest_but(self, damaged: Sequence[int]) -> int | None:
        """The newest step that the first process sees and that is not among the damaged."""
        seen = [step for step in steps(self.workdir) if step not in damaged]
        step = seen[-1] if seen else -1
        if jax.process_count() > 1:
            step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
        return None if step < 0 else step

    def _restore_together(
        self, step: int, targets: Mapping[str, Any]
    ) -> tuple[dict[str, Any], History] | None:
        """Items and history of a checkpoint; None if it is damaged, for all processes alike.

        Raises:
          CheckpointError: a process, not always this one, could not read it.
        """
        restored, error = None, None
        try:
            items = restore(self.workdir, step, targets)
            restored = items, read_facts(self.workdir, step)["history"]
        except CheckpointError as raised:
            error = raised
        damaged, failed = isinstance(error, DamagedError), error is not None
        if jax.process_count() > 1:
            outcomes = multihost_utils.process_allgather(np.array([damaged, failed]))
            damaged, failed = outcomes[:, 0].all(), outcomes[:, 1].any()
            if failed and error is None:
                raise CheckpointError(
                    f"checkpoint {step} of {self.workdir} could not be read by the processes "
                    f"{np.flatnonzero(outcomes[:, 1]).tolist()}; all end, so that they resume from "
                    "the same step. It is left as it is"
                )
        if error is not None and not damaged:
            raise error
        if damaged:
            logging.warning("%s; trying the one before it", error)
        return restored

    def _set_aside(self, damaged: Sequence[int]) -> None:
        """Moves checkpoints out of the way; all processes return when that is done."""
        for step in damaged if jax.process_index() == 0 else ():
            logging.warning("The damaged checkpoint is kept in %s", _set_aside(self.workdir, step))
        if damaged:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints are set aside")
            self._manager.reload()
