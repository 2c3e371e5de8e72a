"""Checkpoints that survive kills, damaged files and full disks.

A checkpoint `WORKDIR/checkpoints/STEP` has three items: `weights` (parameters and running moments),
`optimizer`, and `facts` (see `checkpoint_facts`). A damaged checkpoint is moved to
`WORKDIR/checkpoints.damaged/STEP`; an intact one is deleted only for newer ones.
"""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from jaxcovid.runtime.files import write_atomically
from jaxcovid.workdir.checkpoint_facts import (
    FOLDER,
    Checkpoint,
    CheckpointError,
    CheckpointFacts,
    DamagedError,
    History,
    checksums,
    facts_path,
    open_checkpoint,
    read_facts,
    steps,
    unreadable,
)

DAMAGED_FOLDER = "checkpoints.damaged"
Items = dict[str, Any]  # `weights` and `optimizer`, pytrees of arrays

_copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


@dataclass(frozen=True)
class Restored:
    """A restored checkpoint."""

    step: int
    items: Items
    history: History


def restore(checkpoint: Checkpoint, targets: Mapping[str, Any]) -> Items:
    """Items of a checkpoint, `weights` and/or `optimizer`, verified by their checksums.

    Args:
      checkpoint: to read.
      targets: for each item a pytree of `jax.ShapeDtypeStruct` with sharding.

    Raises:
      DamagedError: damaged, or of another network.
      CheckpointError: it cannot be read for another reason, which is the cause.
    """
    workdir, step = checkpoint.workdir, checkpoint.step
    restored = {}
    # Not a checkpointer, which would let processes wait for one that has failed.
    handler = ocp.StandardCheckpointHandler()
    try:
        for name, target in targets.items():
            path = (checkpoint.folder / name).resolve()
            try:
                restored[name] = handler.restore(path, args=ocp.args.StandardRestore(target))
                expected = checkpoint.facts.checksums.get(name, {})
                actual = checksums(restored[name])
            except Exception as error:  # orbax, tensorstore, zarr and JAX each raise their own
                raise unreadable(workdir, step, error) from error
            if bad := [k for k in {**expected, **actual} if actual.get(k) != expected.get(k)]:
                raise DamagedError(
                    f"checkpoint {step} of {workdir} is damaged: {len(bad)} of {len(expected)} "
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
    folder = workdir / DAMAGED_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    names = (f"{step}.{i}" if i else str(step) for i in itertools.count())
    target = next(folder / name for name in names if not (folder / name).exists())
    (workdir / FOLDER / str(step)).rename(target)
    return target


class _LatestTwoAndBest:
    """Which checkpoints are kept; orbax's own policies forget validations of earlier processes."""

    def __init__(self) -> None:
        self.history: History = ()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """For each checkpoint, in ascending order of their steps, whether it is kept."""
        del context
        present = [checkpoint.step for checkpoint in checkpoints]
        ranked = [(entry.score, entry.step) for entry in self.history if entry.step in present]
        kept = {*present[-2:], *(step for _, step in sorted(ranked)[-1:])}
        return [step in kept for step in present]


class Checkpoints:
    """Saves checkpoints in the background and keeps the latest two and the best.

    Use as a context manager; leaving it waits for the last save and reports its errors.
    """

    def __init__(self, workdir: Path, whole: Sharding) -> None:
        """Opens `workdir/checkpoints`, creating it if missing.

        Args:
          workdir: of the run.
          whole: a sharding that replicates arrays over all devices; so they are written and read,
            and a checkpoint fits any number of devices.
        """
        self.workdir = workdir
        self._whole = whole
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

    def save(self, step: int, items: Items, history: History) -> None:
        """Starts to write a checkpoint, unless one of its step exists.

        Args:
          step: of the training.
          items: copied before this returns, so that their buffers may be donated afterwards.
          history: all validations so far; one at this step ranks the checkpoint.

        Raises:
          OSError: the previous checkpoint could not be written (a full disk).
        """
        if step in self._manager.all_steps():
            return
        items = jax.device_put(_copy(items), self._whole)
        sums = {name: checksums(item) for name, item in items.items()}
        facts = CheckpointFacts(step, sums, history)
        self._keep.history = history
        self._manager.save(
            step,
            args=ocp.args.Composite(
                facts=ocp.args.JsonSave(facts.to_json()),
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
        step = history[-1].step
        if jax.process_index() == 0:
            facts = dataclasses.replace(read_facts(self.workdir, step), history=history)
            content = json.dumps(facts.to_json()).encode()
            write_atomically(facts_path(self.workdir, step), content)
        self._keep.history = history

    def restore_latest(self, targets: Items) -> Restored | None:
        """The newest intact checkpoint; None if there is none at all.

        Damaged newer ones are named in the log and moved to `DAMAGED_FOLDER`, so that their steps
        can be saved again. All processes restore the same step.

        Args:
          targets: for each item a pytree of the wanted shapes, dtypes and shardings.

        Raises:
          CheckpointError: checkpoints exist, but none is intact, or one cannot be read for a reason
            that may pass; nothing was changed.
        """
        whole = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._whole), targets
        )
        damaged: list[int] = []
        while (step := self._newest_except(damaged)) is not None:
            restored = self._restore_together(step, whole)
            if restored is None:
                damaged.append(step)
                continue
            self._set_aside(damaged)
            self._keep.history = restored.history
            shardings = jax.tree.map(lambda x: x.sharding, targets)
            return dataclasses.replace(restored, items=jax.device_put(restored.items, shardings))
        if damaged:
            raise CheckpointError(
                f"none of the checkpoints {damaged} of {self.workdir} is intact; restore one from "
                f"a backup, or delete {self.workdir / FOLDER} to start over"
            )
        return None

    def _newest_except(self, damaged: Sequence[int]) -> int | None:
        """The newest step that the first process sees and that is not among the damaged."""
        intact = [step for step in steps(self.workdir) if step not in damaged]
        step = intact[-1] if intact else -1
        if jax.process_count() > 1:
            step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
        return None if step < 0 else step

    def _restore_together(self, step: int, targets: Items) -> Restored | None:
        """A checkpoint; None if it is damaged, for all processes alike.

        Raises:
          CheckpointError: a process, not always this one, could not read it.
        """
        restored, error = None, None
        try:
            checkpoint = open_checkpoint(self.workdir, step)
            items = restore(checkpoint, targets)
            restored = Restored(step, items, checkpoint.facts.history)
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
            return None
        return restored

    def _set_aside(self, damaged: Sequence[int]) -> None:
        """Moves checkpoints out of the way; all processes return when that is done."""
        for step in damaged if jax.process_index() == 0 else ():
            logging.warning("The damaged checkpoint is kept in %s", _set_aside(self.workdir, step))
        if damaged:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints are set aside")
            self._manager.reload()
