"""What a training reports while it runs: scalars, the progress bar, signs of life."""

import collections
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from jaxcovid.runtime import distributed
from jaxcovid.training.plan import Plan
from jaxcovid.training.throughput import StepClock
from jaxcovid.workdir import checkpoint_facts
from jaxcovid.workdir.heartbeat import Heartbeat
from jaxcovid.workdir.metric_writer import Writer


class TrainingError(RuntimeError):
    """Training cannot continue; the message names the step and the last good checkpoint."""


def check_finite(step: int, numbers: Mapping[str, float], workdir: Path) -> None:
    """Refuses a loss or a gradient that is not finite.

    Accuracy and Dice are NaN where a batch knows nothing of the first output or a structure.

    Raises:
      TrainingError: names them, the step and the last good checkpoint.
    """
    bad = [
        name
        for name, x in numbers.items()
        if not np.isfinite(x) and (name.endswith("loss") or name == "gradient_norm")
    ]
    if bad:
        saved = checkpoint_facts.steps(workdir)
        last = f"the last good checkpoint is step {saved[-1]}" if saved else "nothing was saved yet"
        raise TrainingError(
            f"{' and '.join(bad)} not finite at step {step}; {last} in {workdir}. "
            "Lower --config.optimizer.learning_rate in a new workdir, or look at the input."
        )


class Progress:
    """Fetches the numbers of finished steps, one step late, and reports them.

    Use as a context manager.

    Attributes:
      writer: of scalars and pictures.
      heartbeat: of this process.
      clock: of the train steps, from `begin` on.
    """

    def __init__(
        self,
        workdir: Path,
        plan: Plan,
        schedule: optax.Schedule,
        *,
        start: int,
        revalidates: bool = False,
    ) -> None:
        """Opens the files.

        Args:
          workdir: of the run.
          plan: of the training.
          schedule: learning rate by update.
          start: step that the run resumes from.
          revalidates: see `metric_writer.Writer`.
        """
        self._workdir, self._plan, self._schedule = workdir, plan, schedule
        self._files = contextlib.ExitStack()
        self._pending: collections.deque[tuple[int, Mapping[str, jax.Array]]] = collections.deque()
        main = distributed.is_main()
        self.writer = Writer(workdir, start_step=start, enabled=main, revalidates=revalidates)
        self.heartbeat = Heartbeat(workdir, total_steps=plan.total_steps)
        self._trace = contextlib.ExitStack()
        self._start = start

    def __enter__(self) -> "Progress":
        with contextlib.ExitStack() as files:
            files.enter_context(contextlib.closing(self.writer))
            files.enter_context(self.heartbeat)
            files.enter_context(self._trace)
            self._files = files.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._files.__exit__(*error)

    def begin(self) -> None:
        """Starts the progress bar and the clock of the train steps."""
        self._files.enter_context(logging_redirect_tqdm())  # the log is written above the bar
        self._bar = self._files.enter_context(
            tqdm(
                total=self._plan.total_steps * self._plan.batch_size,
                initial=self._start * self._plan.batch_size,
                unit=" images",
                disable=None if distributed.is_main() else True,  # None: only on a terminal
                dynamic_ncols=True,
                mininterval=0.5,
            )
        )
        self.clock = StepClock()

    def start_trace(self, step: int) -> None:
        """Starts the profiler's trace for TensorBoard before the first step of it."""
        if step == self._plan.profile[0]:
            self._trace.enter_context(jax.profiler.trace(str(self._workdir / "tensorboard")))

    def stop_trace(self, step: int, state: Any) -> None:
        """Ends the trace behind its last step; there is none in a run that resumed within it."""
        if step == self._plan.profile[1]:
            jax.block_until_ready(state)
            self._trace.close()

    def dispatched(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Notes the metrics of a step that may still be running."""
        self._pending.append((step, metrics))

    def report(self, *, replaced: int, keep: int) -> None:
        """Waits for all dispatched steps but the last `keep` and reports their metrics.

        Args:
          replaced: records of this process that could not be read so far.
          keep: steps to leave for later, so that the devices are never idle.

        Raises:
          TrainingError: a number is not finite.
        """
        while len(self._pending) > keep:
            step, metrics = self._pending.popleft()
            numbers = {name: float(x) for name, x in jax.device_get(metrics).items()}
            check_finite(step, numbers, self._workdir)
            self._bar.update(self._plan.batch_size)
            self._bar.set_postfix_str(f"step {step}, loss {numbers['loss']:.3f}", refresh=False)
            self.clock.count(self._plan.batch_size)
            rates: dict[str, float] = {}
            if self._plan.logs(step):
                update = (step - 1) // self._plan.accumulate_steps
                numbers["learning_rate"] = float(self._schedule(update))
                rates = {**self.clock.lap(), "replaced_records": replaced}
                self.writer.scalars(step, {**numbers, **rates})
            self.heartbeat.beat(step, **rates)

    def show_input(self, step: int, image: jax.Array, *, limit: int = 8) -> None:
        """Writes the first images of a batch as pictures to TensorBoard, views one by one.

        Of a volume it is the middle slice.

        Args:
          step: of the batch.
          image: float32 [b, h, w, 1], of views [b, 2, h, w, 1], or of volumes [b, h, w, slices].
          limit: how many.
        """
        rows = np.asarray(image.addressable_data(0))
        middle = rows.shape[-1] // 2
        rows = rows.reshape(-1, *rows.shape[-3:])[:limit, ..., middle : middle + 1]
        scaled = np.clip((rows + 2.5) * 51, 0, 255).astype(np.uint8)
        self.writer.images(step, "input", np.repeat(scaled, 3, axis=-1))
