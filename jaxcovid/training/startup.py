"""From an experiment to a running training: claim the workdir, restore or initialise, compile."""

import concurrent.futures
import contextlib
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import logging

from jaxcovid.data import device_preprocessing, identity, image_cache, pipeline
from jaxcovid.data.datasets import Dataset
from jaxcovid.data.joined import JoinedDataset
from jaxcovid.inference import frozen_parts, out_of_distribution, training_facts
from jaxcovid.inference.trained_on import carry_initial
from jaxcovid.models.representation_net import RepresentationNet
from jaxcovid.runtime import distributed
from jaxcovid.runtime.sharding import process_place, replicated_sharding
from jaxcovid.training import loop, lung_marks, messages
from jaxcovid.training.batches import DeviceBatches
from jaxcovid.training.compilation import compile_train_step
from jaxcovid.training.experiment import Experiment
from jaxcovid.training.loop import Result
from jaxcovid.training.preemption import Termination
from jaxcovid.training.progress import Progress
from jaxcovid.training.representation_validation import RepresentationValidator
from jaxcovid.training.state import TrainState, jit_init_state
from jaxcovid.training.state_validator import StateValidator
from jaxcovid.training.validation import Validator
from jaxcovid.weights import teachers
from jaxcovid.workdir import run as runs
from jaxcovid.workdir.checkpoints import Checkpoints
from jaxcovid.workdir.lock import lock


def train(experiment: Experiment, dataset: Dataset, workdir: Path) -> Result:
    """Trains an experiment to its end, or resumes it where an earlier call was ended.

    Args:
      experiment: what to train.
      dataset: that it is trained on.
      workdir: created if missing; resumed if it belongs to the same run.

    Raises:
      ValueError: a workdir of another run, a checkpoint that cannot be used, or too little memory
        for the decoded images.
      OSError: the workdir cannot be written, or the decoded images.
      TrainingError: the loss or its gradient is not finite.
    """
    messages.show_sources(experiment, dataset)
    experiment = _with_lungs(_with_cached_images(experiment, dataset), workdir)
    validator, initialise = _make_validator(experiment), _make_initializer(experiment)
    with contextlib.ExitStack() as stack:
        if distributed.is_main():
            stack.enter_context(lock(workdir))
            _claim(experiment, dataset, workdir)
        distributed.wait_for_all("the workdir is claimed")
        result = _train_claimed(experiment, workdir, validator, initialise)
        if distributed.is_main() and not result.terminated:
            _fit_detector(experiment, workdir)
            _save_training_facts(experiment, workdir)
    if distributed.is_main() and result.history and not result.terminated:
        messages.log_best(experiment, result, workdir)
    return result


def _with_cached_images(experiment: Experiment, dataset: Dataset) -> Experiment:
    """The experiment whose images are decoded once, if its configuration asks for that."""
    splits = {"train": experiment.training, "validation": experiment.validation}
    sources = {name: split.source for name, split in splits.items()}
    if isinstance(dataset, JoinedDataset):
        cached = dataset.with_cached_images(sources, cache=experiment.cache)
    else:
        cached = image_cache.cache_images(
            sources, cache=experiment.cache, folder=dataset.directory, digest=dataset.digest
        )
    training, validation = (
        dataclasses.replace(split, source=cached[name]) for name, split in splits.items()
    )
    return dataclasses.replace(experiment, training=training, validation=validation)


def _with_lungs(experiment: Experiment, workdir: Path) -> Experiment:
    """The experiment whose network is shown the lungs, if its configuration asks for that."""
    if experiment.lungs is None:
        return experiment
    splits = lung_marks.focus_splits(
        {"train": experiment.training, "validation": experiment.validation},
        workdir,
        run=experiment.run,
        part=experiment.lungs,
        mesh=experiment.mesh,
        workers=experiment.workers,
    )
    return dataclasses.replace(
        experiment, training=splits["train"], validation=splits["validation"]
    )


def _claim(experiment: Experiment, dataset: Dataset, workdir: Path) -> None:
    """Writes what the workdir says about itself."""
    if not (workdir / runs.FILE).exists():  # before the file that says that a run has begun
        carry_initial(workdir, *experiment.trainings)
        teachers.carry(workdir, experiment.teachers)
    experiment.run.claim(workdir)
    # The data are those of the run: `claim` compares their digests.
    if not (workdir / identity.TRAINED_ON_FILE).exists():
        splits = dataset.identities()
        used = {split: splits[split] for split in ("train", "validation")}
        identity.save(workdir / identity.TRAINED_ON_FILE, used)
    frozen_parts.carry_parts(workdir, experiment.parts)
    if experiment.lungs:
        frozen_parts.carry_parts(workdir, {frozen_parts.LUNGS: experiment.lungs})
        splits = {"train": experiment.training, "validation": experiment.validation}
        lung_marks.save(splits, workdir, run=experiment.run)


def _fit_detector(experiment: Experiment, workdir: Path) -> None:
    """Fits and saves the detector of images that are unlike those of the training, once."""
    if out_of_distribution.find_file(workdir) is None:
        sources = experiment.training.source, experiment.validation.source
        detector = out_of_distribution.detector_of_sources(*sources)
        if detector:
            detector.save(workdir)


def _save_training_facts(experiment: Experiment, workdir: Path) -> None:
    """Saves which facts beside the disease go with the class, once, if there is one to look for."""
    screens = experiment.run.task.screens and experiment.model.classifies
    if screens and not (workdir / training_facts.FILE).exists():
        splits = experiment.training, experiment.validation
        facts = training_facts.facts_of_splits(*((each.source, each.encode) for each in splits))
        if facts:
            facts.save(workdir)


def _train_claimed(
    experiment: Experiment, workdir: Path, validator: StateValidator, initialise: Any
) -> Result:
    """Restores or initialises the state, compiles the step, and enters the loop."""
    plan, mesh = experiment.plan, experiment.mesh
    messages.warn_of_few_rows(experiment)
    messages.warn_of_slow_network(experiment)
    parts = frozen_parts.carried_parts(workdir, experiment.run)
    frozen = frozen_parts.load_parts(parts, mesh, size=experiment.run.preprocessing.size)
    frozen |= teachers.place(experiment.teachers, mesh)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(workdir, replicated_sharding(mesh)))
        termination = stack.enter_context(Termination())
        expected = initialise.eval_shape().replace(frozen=frozen)
        restored = checkpoints.restore_latest(expected.items)
        start, history, state = 0, (), None
        if restored:
            start, history = restored.step, restored.history
            state = expected.restored(start, restored.items)
        unvalidated = plan.validates(start) and (not history or history[-1].step < start)
        if plan.finished(start, history) and not unvalidated:
            logging.info("Training was finished before, at step %d", start)
            return Result(start, history, terminated=False)
        if start:
            logging.info("Resuming from the checkpoint of step %d of %d", start, plan.total_steps)
        else:
            logging.info(
                "Training for %d steps of %d images each", plan.total_steps, plan.batch_size
            )
        if freezing := experiment.freezing:
            layers = " and ".join(freezing.layers)
            logging.info("Frozen up to step %d: %s", freezing.steps, layers)
        progress = stack.enter_context(
            Progress(workdir, plan, experiment.schedule, start=start, revalidates=unvalidated)
        )
        validate = partial(validator, progress=progress, checkpoints=checkpoints)
        if unvalidated:
            logging.info("Validating step %d, which was saved without", start)
            progress.heartbeat.beat(start)
            history = validate(start, state, history)
            if plan.finished(start, history):
                return Result(start, history, terminated=False)

        # The parameters are made while the first images are prepared and the step compiles.
        initialising = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1)).submit(
            lambda: state or _begin(experiment, initialise).replace(frozen=frozen)
        )
        batches = _make_batches(experiment, start)
        train_step = _compile(experiment, expected, batches.peek())
        tools = loop.Tools(train_step, validate, batches, checkpoints, progress, termination)
        return loop.train(plan, tools, state=initialising.result(), history=history)


def _begin(experiment: Experiment, initialise: Any) -> TrainState:
    """The state before the first step."""
    state = initialise()
    if not experiment.warm_start:
        return state
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return state.replace(**experiment.warm_start.load(variables, experiment.run))


def _make_initializer(experiment: Experiment) -> Any:
    """See `state.jit_init_state`."""
    return jit_init_state(
        experiment.mesh,
        fsdp=experiment.fsdp,
        model=experiment.model,
        optimizer=experiment.optimizer,
        image_size=experiment.run.preprocessing.size,
        seed=experiment.run.seed,
    )


def _make_validator(experiment: Experiment) -> StateValidator:
    if isinstance(experiment.model, RepresentationNet):
        return RepresentationValidator(
            experiment.training,
            experiment.validation,
            model=experiment.model,
            preprocessing=experiment.run.augmented_preprocessing,
            mesh=experiment.mesh,
            batch_size=experiment.plan.batch_size,
            workers=experiment.workers,
        )
    return Validator(
        experiment.validation,
        task=experiment.run.task,
        model=experiment.model,
        preprocessing=experiment.run.preprocessing,
        mesh=experiment.mesh,
        batch_size=experiment.plan.batch_size,
        loss_weights=experiment.loss_weights,
        workers=experiment.workers,
    )


def _make_batches(experiment: Experiment, start: int) -> DeviceBatches:
    """The batches from that of step `start + 1` on."""
    preprocessing, mesh, unpack = experiment.run.augmented_preprocessing, experiment.mesh, None
    split, (index, count) = experiment.training, process_place(mesh)
    if experiment.preprocess_on == "device":
        unpack = device_preprocessing.Unpacker(mesh, preprocessing=preprocessing)
    loading = pipeline.Loading(
        preprocessing=preprocessing,
        batch_size=experiment.plan.batch_size,
        ablation=split.ablation,
        masks=split.masks,
        views=split.views,
        workers=experiment.workers,
        process_index=index,
        process_count=count,
    )
    batches = pipeline.train_batches(
        split.source,
        loading,
        target=split.encode,
        seed=experiment.run.seed,
        start_step=start,
        preprocess_on=experiment.preprocess_on,
        bad_records=experiment.bad_records,
        strata=split.strata,
    )
    return DeviceBatches(batches, mesh, unpack)


def _compile(experiment: Experiment, expected: TrainState, batch: Any) -> Any:
    logging.info("Compiling the train step")
    cache = jax.config.jax_compilation_cache_dir
    return compile_train_step(
        experiment.mesh,
        expected,
        batch,
        fingerprint=experiment.fingerprint,
        folder=Path(cache) / "traced" if cache else None,
        model=experiment.model,
        optimizer=experiment.optimizer,
        weights=experiment.loss_weights,
        batch_norm=experiment.batch_norm,
        segmentation_weight=experiment.segmentation_weight,
        freezing=experiment.freezing,
    )
