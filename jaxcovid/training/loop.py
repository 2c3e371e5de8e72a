"""The training loop: flat, resumable at any step, never waiting for a number it can do without.

Every step, in this order:
  1. dispatch the train step on the batch that already lies on the devices;
  2. prepare and place the next batch while they compute;
  3. fetch the numbers of the step before; stop if they are not finite; write them when due;
  4. save, leave on SIGTERM, validate, and stop early, each when due. A checkpoint is saved before
     its validation, which can take minutes, and gets it afterwards; what was ended in between is
     validated first by the run that resumes.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from absl import logging
from jax.sharding import Mesh
from tqdm import tqdm

from jaxcovid.data import device_preprocessing, pipeline
from jaxcovid.data.labels import Targets
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.runtime import distributed
from jaxcovid.runtime.sharding import check_batch_size, place_batch, replicated_sharding
from jaxcovid.training.compilation import compile_train_step
from jaxcovid.training.state import TrainState, jit_init_state
from jaxcovid.training.step import jit_forward
from jaxcovid.training.validation import (
    predict_source,
    stops_early,
    validation_scores,
    validation_workers,
)
from jaxcovid.workdir import checkpoints
from jaxcovid.workdir.checkpoints import Checkpoints, History
from jaxcovid.workdir.heartbeat import Heartbeat
from jaxcovid.workdir.metric_writer import Writer


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and the last good checkpoint."""


@dataclasses.dataclass(frozen=True)
class Result:
    """How a call of `train` ended.

    Attributes:
      step: steps taken in all.
      history: every validation, in order.
      terminated: True if a signal ended it before its time; the same command resumes.
    """

    step: int
    history: History
    terminated: bool


class StepClock:
    """Images/s and data stall between two lines of the log, without validations and saves."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._images, self._stalled, self._paused = 0, 0.0, 0.0

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Counts a wait for input."""
        start = time.perf_counter()
        yield
        self._stalled += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves something that is not a train step out of the rate."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def count(self, images: int) -> None:
        """Counts images of a finished step."""
        self._images += images

    def lap(self) -> dict[str, float]:
        """The rates since the last lap: `images_per_s` and `data_stall_share` of the time."""
        seconds = time.perf_counter() - self._start - self._paused
        rates = {
            "images_per_s": self._images / seconds,
            "data_stall_share": self._stalled / seconds,
        }
        self.__init__()
        return rates


def _check_finite(step: int, numbers: Mapping[str, float], workdir: Path) -> None:
    # The accuracy is NaN where the batch knows nothing of the first output.
    bad = [name for name, x in numbers.items() if not np.isfinite(x) and name != "accuracy"]
    if bad:
        saved = checkpoints.steps(workdir)
        last = f"the last good checkpoint is step {saved[-1]}" if saved else "nothing was saved yet"
        raise TrainingError(
            f"{' and '.join(bad)} not finite at step {step}; {last} in {workdir}. "
            "Lower --config.optimizer.learning_rate in a new workdir, or look at the input."
        )


def _as_pictures(images: np.ndarray, limit: int = 8) -> np.ndarray:
    """Network input float32 [b, h, w, 1] -> pictures uint8 [n, h, w, 3]."""
    scaled = np.clip((images[:limit] + 2.5) * 51, 0, 255).astype(np.uint8)
    return np.repeat(scaled, 3, axis=-1)


def train(
    *,
    workdir: Path,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    accumulate_steps: int,
    source: Sequence[pipeline.Record],
    targets: Targets,
    screening: bool,
    loss_weights: np.ndarray,
    validation_source: Sequence[pipeline.Record],
    validation_targets: np.ndarray,
    preprocessing: Preprocessing,
    mesh: Mesh,
    seed: int,
    batch_size: int,
    total_steps: int,
    batch_norm: str,
    validate_every_steps: int,
    save_every_steps: int,
    log_every_steps: int,
    early_stop_validations: int,
    preprocess_on: str,
    bad_records: str,
    workers: int,
    fsdp: int,
    profile: tuple[int, int],
    identity: str,
    control: pipeline.Control | None = None,
    frozen: Mapping[str, Any] | None = None,
    draw_heatmaps: Callable[[Mapping[str, Any]], np.ndarray] | None = None,
) -> Result:
    """Trains `model` to `total_steps`, resuming from the workdir's newest intact checkpoint.

    Args:
      workdir: gets `checkpoints/`, `metrics.jsonl` and `tensorboard/`.
      model: takes `(image, train=)`, returns logits [b, outputs].
      optimizer: see `optimizer.make_optimizer`.
      schedule: learning rate by update, for the log.
      accumulate_steps: steps of one update, for the log.
      source: training records.
      targets: what the network should say of a record.
      screening: the first output is of the class that is looked for; else all are findings.
      loss_weights: float32 [2, outputs], see `losses.class_weights`.
      validation_source: records that rank checkpoints and give the thresholds.
      validation_targets: their targets, float32 [n, outputs].
      preprocessing: the paper's five steps.
      mesh: the devices; a global batch is spread over them.
      seed: of initialisation, shuffling and augmentation.
      batch_size: images of a global batch.
      total_steps: steps in all, those of earlier runs included.
      batch_norm: `global` or `per_device`, see `step.train_step`.
      validate_every_steps: steps between validations; the last step is always validated.
      save_every_steps: steps between checkpoints, beside one at each validation.
      log_every_steps: steps between lines of scalars.
      early_stop_validations: stop when the best AUC is so many validations old; 0 never does.
      preprocess_on: where training images are, see `pipeline.train_batches`; those of the
        validation always are on the host.
      bad_records: see `pipeline.train_batches`.
      workers: see `pipeline.train_batches`; of the validation, see `validation_workers`.
      fsdp: see `sharding.shard_state`.
      profile: the first and the last step that are traced for TensorBoard; (0, 0) traces none.
      identity: of the train step, see `programs.compile_train_step`.
      control: see `pipeline.train_batches`; of validation images too.
      frozen: variables of the network's frozen parts, replicated over the mesh; donated.
      draw_heatmaps: variables -> pictures uint8 [n, h, w, 3] for TensorBoard at each validation.

    Raises:
      ValueError: the batch does not divide over the devices, or an option is unknown.
      TrainingError: the loss or its gradient is not finite.
      OSError: a checkpoint could not be written.
    """
    check_batch_size(batch_size, mesh)
    if batch_norm == "per_device" and batch_size // mesh.size < 8:
        logging.warning(
            "Only %d images a device: at 256x256 the top of the attention pyramid is 1x1, so its "
            "batch normalisation sees only that many numbers. Use at least 8.",
            batch_size // mesh.size,
        )
    initialise = jit_init_state(
        mesh, fsdp=fsdp, model=model, optimizer=optimizer, image_size=preprocessing.size, seed=seed
    )
    forward = jit_forward(mesh, model=model)
    unpack = device_preprocessing.jit_unpack(mesh, preprocessing=preprocessing)
    main_process = distributed.is_main()

    def validated(variables: Mapping[str, Any]) -> dict[str, Any]:
        probabilities = predict_source(
            variables,
            validation_source,
            forward=forward,
            preprocessing=preprocessing,
            batch_size=batch_size,
            mesh=mesh,
            control=control,
            workers=validation_workers(workers, len(validation_source)),
        )
        return validation_scores(
            probabilities,
            validation_targets,
            screening=screening,
            exclusive=model.exclusive,
            loss_weights=loss_weights,
        )

    def due(step: int) -> bool:
        return step > 0 and (step % validate_every_steps == 0 or step == total_steps)

    with contextlib.ExitStack() as stack:
        saver = stack.enter_context(Checkpoints(workdir))
        termination = stack.enter_context(distributed.Termination())
        expected = initialise.eval_shape().replace(frozen=dict(frozen or {}))
        state, history = saver.restore_latest(expected) or (None, [])
        start = int(state.step) if state else 0

        def finished() -> bool:
            return start >= total_steps or stops_early(history, early_stop_validations)

        unvalidated = due(start) and (not history or history[-1]["step"] < start)
        if finished() and not unvalidated:
            logging.info("Training was finished before, at step %d", start)
            return Result(start, history, terminated=False)
        if start:
            logging.info("Resuming from the checkpoint of step %d of %d", start, total_steps)
        else:
            logging.info("Training for %d steps of %d images each", total_steps, batch_size)

        writer = stack.enter_context(
            contextlib.closing(
                Writer(workdir, start_step=start, enabled=main_process, revalidates=unvalidated)
            )
        )
        heartbeat = stack.enter_context(Heartbeat(workdir, total_steps=total_steps))

        def validate(step: int, state: TrainState) -> History:
            variables = jax.device_put(state.variables, replicated_sharding(mesh))
            entry = validated(variables)
            writer.scalars(step, {"validation/auc": entry["auc"], "validation/loss": entry["loss"]})
            if draw_heatmaps and main_process:
                writer.images(step, "heatmaps", draw_heatmaps(variables))
            saver.add_validation([*history, {"step": step, **entry}])
            return [*history, {"step": step, **entry}]

        if unvalidated:
            logging.info("Validating step %d, which was saved without", start)
            heartbeat.beat(start)
            history = validate(start, state)
            if finished():
                return Result(start, history, terminated=False)

        # The parameters are made while the first images are prepared and the step compiles.
        initialising = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1)).submit(
            lambda: state or initialise().replace(frozen=expected.frozen)
        )
        batches = pipeline.train_batches(
            source,
            target=targets,
            preprocessing=preprocessing,
            batch_size=batch_size,
            seed=seed,
            start_step=start,
            preprocess_on=preprocess_on,
            bad_records=bad_records,
            control=control,
            workers=workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

        replaced = 0  # of this process's rows

        def next_batch() -> dict[str, jax.Array]:
            nonlocal replaced
            rows = next(batches)
            replaced += int(rows.pop("replaced").sum())
            batch = place_batch(rows, mesh)
            if preprocess_on == "host":
                return batch
            target = batch.pop("target")
            return {"image": unpack(batch), "target": target}

        trace = stack.enter_context(contextlib.ExitStack())
        bar = stack.enter_context(
            tqdm(
                total=total_steps * batch_size,
                initial=start * batch_size,
                unit=" images",
                disable=None if main_process else True,  # None: only on a terminal
                dynamic_ncols=True,
                mininterval=0.5,
            )
        )
        batch = next_batch()
        logging.info("Compiling the train step")
        cache = jax.config.jax_compilation_cache_dir
        step_fn = compile_train_step(
            mesh,
            expected,
            batch,
            identity=identity,
            folder=Path(cache) / "traced" if cache else None,
            model=model,
            optimizer=optimizer,
            weights=loss_weights,
            batch_norm=batch_norm,
        )
        state = initialising.result()
        clock = StepClock()
        pending: collections.deque[tuple[int, Mapping[str, jax.Array]]] = collections.deque()
        for step in range(start + 1, total_steps + 1):
            current = batch
            if step == profile[0]:
                trace.enter_context(jax.profiler.trace(str(workdir / "tensorboard")))
            state, values = step_fn(state, current)
            if step == start + 1:
                logging.info("First step dispatched")
            pending.append((step, values))
            if step < total_steps:
                with clock.stalled():
                    batch = next_batch()

            stopping = termination.requested(step)
            saving = due(step) or stopping or step % save_every_steps == 0
            while len(pending) > (0 if saving else 1):
                done, values = pending.popleft()
                numbers = {name: float(x) for name, x in jax.device_get(values).items()}
                _check_finite(done, numbers, workdir)
                bar.update(batch_size)
                bar.set_postfix_str(f"step {done}, loss {numbers['loss']:.3f}", refresh=False)
                clock.count(batch_size)
                rates: dict[str, float] = {}
                if done % log_every_steps == 0 or done == total_steps:
                    numbers["learning_rate"] = float(schedule((done - 1) // accumulate_steps))
                    rates = {**clock.lap(), "replaced_records": replaced}
                    writer.scalars(done, {**numbers, **rates})
                heartbeat.beat(done, **rates)
            if step == profile[1]:
                jax.block_until_ready(state)
                trace.close()  # nothing to a run that resumed behind the first of these steps

            with clock.paused():
                if step == start + 1:
                    writer.images(
                        step,
                        "input",
                        _as_pictures(np.asarray(current["image"].addressable_data(0))),
                    )
                if saving:
                    writer.flush()
                    saver.save(state, history)
                if due(step) and not stopping:
                    history = validate(step, state)
            if stopping:
                logging.warning(
                    "Ended by a signal; step %d is saved. The same command resumes.", step
                )
                heartbeat.ended = "interrupted"
                return Result(step, history, terminated=True)
            if due(step) and stops_early(history, early_stop_validations):
                logging.info(
                    "Stopping early: the best validation AUC is %d validations old",
                    early_stop_validations,
                )
                break
        return Result(step, history, terminated=False)
