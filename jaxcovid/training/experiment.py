"""A training as its configuration describes it: everything checked and built, nothing started.

With `splits`, the only module below the commands that takes a `ConfigDict`.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

import jaxcovid
from jaxcovid.data import image_cache, pipeline
from jaxcovid.data.ablations import trained_ablation
from jaxcovid.data.datasets import Dataset
from jaxcovid.data.joined import left_out_ids
from jaxcovid.data.labels import Task
from jaxcovid.data.lung_focus import check_use
from jaxcovid.inference import frozen_parts
from jaxcovid.inference.frozen_parts import LUNGS
from jaxcovid.inference.lung_finder import find_lungs
from jaxcovid.models.deep_ct_net import FREEZABLE
from jaxcovid.runtime import sharding
from jaxcovid.training import losses, splits
from jaxcovid.training.freezing import Freezing
from jaxcovid.training.optimizer import make_optimizer, make_schedule
from jaxcovid.training.plan import Plan
from jaxcovid.training.splits import SPLITS, Split
from jaxcovid.training.step import devices_together
from jaxcovid.weights import teachers, warm_start
from jaxcovid.weights.selection import WHAT
from jaxcovid.weights.warm_start import WarmStart
from jaxcovid.workdir.run import Run, RunDataset


@dataclass(frozen=True)
class Experiment:
    """What a training is made of.

    Attributes:
      run: what is trained, for `run.json`.
      plan: when the training does what.
      mesh: the devices.
      model: the network.
      parts: its frozen parts.
      lungs: the part that marks the lungs that it is shown; None shows whole images.
      teachers: whose features it learns.
      warm_start: the weights that it begins with; None begins with random ones.
      freezing: what is not trained at first; None trains everything.
      optimizer: see `optimizer.make_optimizer`.
      schedule: learning rate by update.
      loss_weights: float32 [2, outputs], see `losses.class_weights`.
      segmentation_weight: see `objective.total_loss`.
      batch_norm: see `step.train_step`.
      training: the split that is trained on.
      validation: that which ranks checkpoints.
      unlabelled: sources of which nothing but masks is learned.
      preprocess_on: see `pipeline.train_batches`, as are the next two.
      bad_records: likewise.
      workers: likewise.
      cache: see `image_cache.cache_images`.
      fsdp: see `sharding.shard_state`.
    """

    run: Run
    plan: Plan
    mesh: Mesh
    model: nn.Module
    parts: frozen_parts.Parts
    lungs: frozen_parts.Part | None
    teachers: teachers.Teachers
    warm_start: WarmStart | None
    freezing: Freezing | None
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    loss_weights: np.ndarray
    segmentation_weight: float
    batch_norm: str
    training: Split
    validation: Split
    unlabelled: frozenset[str]
    preprocess_on: str
    bad_records: str
    workers: int
    cache: str
    fsdp: int

    @property
    def trainings(self) -> list[Path]:
        """The workdirs that weights of a new run are from: those that it begins with, teachers."""
        start = [self.warm_start.folder] if self.warm_start and self.warm_start.is_training else []
        return start + [each.training for each in self.teachers.values() if each.training]

    @property
    def fingerprint(self) -> str:
        """What the train step depends on, see `compilation.compile_train_step`."""
        config, weights = json.dumps(self.run.config), self.loss_weights.tolist()
        return json.dumps([config, self.plan.updates, weights, str(self.model)])


def make_experiment(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    workdir: Path,
    *,
    command: str | None = None,
) -> Experiment:
    """Checks a configuration and builds what it describes; writes nothing.

    Args:
      config: the resolved configuration, see `configs/default.py`.
      dataset: that it names.
      workdir: of the run; it may carry frozen parts.
      command: the command line.

    Raises:
      ValueError: an option or combination that cannot work.
    """
    check_options(config)
    task = splits.make_task(config, dataset)
    unlabelled = splits.unlabelled_sources(config, dataset, task)
    counts = {
        name: splits.class_counts(dataset, task, name, config.objective, unlabelled)
        for name in SPLITS
    }
    start = warm_start.find(workdir, config.init.weights, what=config.init.what)
    run, parts, lungs = _make_run(config, dataset, task, workdir, command)
    taught_by = teachers.find(workdir, run.config)
    run = dataclasses.replace(
        run,
        init=start.summary if start else None,
        teachers={name: teacher.summary for name, teacher in taught_by.items()},
    )
    _ = run.augmented_preprocessing  # refuses options out of range
    model = frozen_parts.model_with_parts(run, parts)
    if start:
        start.check(run, model)
    training, validation = (
        splits.make_split(dataset, task, name, config, unlabelled=unlabelled) for name in SPLITS
    )
    plan = make_plan(config, images=len(training.source))
    freezing = _make_freezing(config, plan)
    schedule, optimizer = _make_optimizer(config, plan, freezing)
    return Experiment(
        run=run,
        plan=plan,
        mesh=sharding.make_mesh(slices=config.slices),
        model=model,
        parts=parts,
        lungs=lungs,
        teachers=taught_by,
        warm_start=start,
        freezing=freezing,
        optimizer=optimizer,
        schedule=schedule,
        loss_weights=losses.class_weights(counts["train"], kind=config.class_weights),
        segmentation_weight=config.segmentation.weight,
        batch_norm=config.batch_norm,
        training=training,
        validation=validation,
        unlabelled=unlabelled,
        preprocess_on=config.preprocess_on,
        bad_records=config.bad_records,
        workers=config.workers,
        cache=config.cache,
        fsdp=config.fsdp,
    )


def check_options(config: ml_collections.ConfigDict) -> None:
    """Refuses options that do not exist, are out of range or do not fit the devices.

    Raises:
      ValueError: naming the option and what is allowed.
    """
    mesh = sharding.make_mesh(slices=config.slices)
    sharding.check_batch_size(config.batch_size, mesh)
    sharding.check_fsdp(config.fsdp, mesh)
    devices_together(config.batch_norm, mesh)
    pipeline.check_options(config.preprocess_on, config.bad_records)
    image_cache.check_cache(config.cache)
    splits.make_mixture(config)
    if config.workers < 0:
        raise ValueError(f"workers is {config.workers}; it must be 0 (threads) or more")
    for name in ("epochs", "validations_per_epoch", "save_every_steps", "log_every_steps"):
        if not config[name] > 0:
            raise ValueError(f"{name} is {config[name]}; it must be above 0")
    trained_ablation(config.ablation)
    check_use(config.lungs.use)
    if not config.segmentation.weight > 0:
        raise ValueError(f"segmentation.weight is {config.segmentation.weight}; it must be above 0")
    splits.check_views(config)
    splits.check_volumes(config)
    _check_init(config.init)


def _check_init(init: ml_collections.ConfigDict) -> None:
    if init.what not in WHAT:
        raise ValueError(f"init.what is {init.what!r}; use one of {', '.join(WHAT)}")
    if init.freeze_epochs < 0:
        raise ValueError(f"init.freeze_epochs is {init.freeze_epochs}; it must be 0 or more")
    if init.freeze_epochs and not init.weights:
        raise ValueError(
            f"init.freeze_epochs is {init.freeze_epochs}, but there is nothing to keep: give "
            "--config.init.weights=DIR, or 0"
        )


def make_plan(config: ml_collections.ConfigDict, *, images: int) -> Plan:
    """When a training on so many images does what."""
    steps_per_epoch = images / config.batch_size
    return Plan(
        total_steps=max(1, round(config.epochs * steps_per_epoch)),
        batch_size=config.batch_size,
        accumulate_steps=config.optimizer.accumulate_steps,
        validate_every=max(1, round(steps_per_epoch / config.validations_per_epoch)),
        save_every=config.save_every_steps,
        log_every=config.log_every_steps,
        early_stop_validations=config.early_stop_validations,
        profile=tuple(config.profile),
    )


def _make_freezing(config: ml_collections.ConfigDict, plan: Plan) -> Freezing | None:
    """What is frozen for `init.freeze_epochs`, rounded to whole updates; None if nothing is."""
    accumulate_steps = max(1, plan.accumulate_steps)  # `make_optimizer` refuses less
    steps = config.init.freeze_epochs * plan.total_steps / config.epochs
    updates = round(steps / accumulate_steps)
    if not updates:
        return None
    layers = FREEZABLE[:1] if config.init.what == "backbone" else FREEZABLE
    return Freezing(layers, updates, updates * accumulate_steps)


def _make_optimizer(
    config: ml_collections.ConfigDict, plan: Plan, freezing: Freezing | None
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    options = config.optimizer
    schedule = make_schedule(
        learning_rate=options.learning_rate, schedule=options.schedule, updates=plan.updates
    )
    optimizer = make_optimizer(
        schedule,
        weight_decay=options.weight_decay,
        head_lr_multiplier=options.head_lr_multiplier,
        accumulate_steps=options.accumulate_steps,
        total_steps=plan.total_steps,
        layer_decay=config.init.layer_decay,
        freezing=freezing,
    )
    return schedule, optimizer


def _make_run(
    config: ml_collections.ConfigDict,
    dataset: Dataset,
    task: Task,
    workdir: Path,
    command: str | None,
) -> tuple[Run, frozen_parts.Parts, frozen_parts.Part | None]:
    options = json.loads(config.to_json())
    parts = frozen_parts.find_parts(workdir, options, modality=dataset.modality)
    lungs = find_lungs(workdir, options, modality=dataset.modality)
    carried = {**parts, LUNGS: lungs} if lungs else parts
    run = Run(
        config=options,
        dataset=RunDataset(
            name=dataset.name,
            digest=dataset.digest,
            modality=dataset.modality,
            window=dataset.window,
            hu_offset=dataset.hu_offset,
            class_names=dataset.class_names,
            citation=dataset.citation,
            left_out=left_out_ids(dataset),
        ),
        task=task,
        parts={name: part.summary for name, part in carried.items()},
        versions={"jaxcovid": jaxcovid.__version__, "jax": jax.__version__},
        command=command,
    )
    return run, parts, lungs
