"""The training loop: flat, resumable at any step, never waiting for a number it can do without.

Every step, in this order:
  1. dispatch the train step on the batch that is already on the devices;
  2. prepare and place the next batch while they compute;
  3. fetch the numbers of the step before; stop if they are not finite; write them when due;
  4. save, leave on SIGTERM, validate, and stop early, each when due. A checkpoint is saved before
     its validation, which can take minutes, and gets it afterwards; what was ended in between is
     validated first by the run that resumes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from absl import logging

from jaxcovid.training.batches import DeviceBatches
from jaxcovid.training.plan import Plan
from jaxcovid.training.preemption import Termination
from jaxcovid.training.progress import Progress
from jaxcovid.training.state import TrainState
from jaxcovid.workdir.checkpoint_facts import History
from jaxcovid.workdir.checkpoints import Checkpoints


@dataclass(frozen=True)
class Result:
    """How a training ended.

    Attributes:
      step: steps taken in all.
      history: every validation, in order.
      terminated: True if a signal ended it before its time; the same command resumes.
    """

    step: int
    history: History
    terminated: bool


@dataclass(frozen=True)
class Tools:
    """What the loop works with, see `startup`.

    Attributes:
      train_step: (state, batch) -> (state, metrics), compiled; the state is donated.
      validate: (step, state, history) -> the history with the validation of this step.
      batches: an endless iterator.
      checkpoints: of the workdir.
      progress: of the training.
      termination: a signal to leave.
    """

    train_step: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]
    validate: Callable[[int, TrainState, History], History]
    batches: DeviceBatches
    checkpoints: Checkpoints
    progress: Progress
    termination: Termination


def train(plan: Plan, tools: Tools, *, state: TrainState, history: History) -> Result:
    """Trains from a state to the end of the plan.

    Args:
      plan: of the training.
      tools: see `Tools`.
      state: to begin with; donated.
      history: the validations up to this state.

    Raises:
      TrainingError: the loss or its gradient is not finite.
      OSError: a checkpoint could not be written.
    """
    progress, batches, start = tools.progress, tools.batches, int(state.step)
    progress.begin()
    batch = next(batches)
    for step in range(start + 1, plan.total_steps + 1):
        progress.start_trace(step)
        current = batch
        state, metrics = tools.train_step(state, current)
        progress.dispatched(step, metrics)
        if step == start + 1:
            logging.info("First step dispatched")
        if step < plan.total_steps:
            with progress.clock.stalled():
                batch = next(batches)

        stopping = tools.termination.requested(step)
        saving = stopping or plan.saves(step)
        progress.report(replaced=batches.replaced, keep=0 if saving else 1)
        progress.stop_trace(step, state)

        with progress.clock.paused():
            if step == start + 1:
                progress.show_input(step, current["image"])
            if saving:
                progress.writer.flush()
                tools.checkpoints.save(step, state.items, history)
            if plan.validates(step) and not stopping:
                history = tools.validate(step, state, history)
        if stopping:
            logging.warning("Ended by a signal; step %d is saved. The same command resumes.", step)
            progress.heartbeat.ended = "interrupted"
            return Result(step, history, terminated=True)
        if plan.validates(step) and plan.stops_early(history):
            logging.info(
                "Stopping early: the best validation is %d validations old",
                plan.early_stop_validations,
            )
            break
    return Result(step, history, terminated=False)
