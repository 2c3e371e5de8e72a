"""Trains a network, or goes on where an earlier call of the same command was ended.

python -m jaxcovid.train --config=configs/covid_ct.py --workdir=runs/covid_ct
python -m jaxcovid.train --config=configs/covid_ct.py:scratch --workdir=runs/b \
    --config.batch_size=32
"""

import contextlib
import json
import math
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import app, flags, logging
from ml_collections.config_flags import config_path

import jaxcovid
from jaxcovid.runtime import cli, config_files
from jaxcovid.runtime.files import as_path

_CONFIG = config_files.define_flag()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run: checkpoints, metrics, figures")
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of the first of several processes (default: detected)"
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many processes; 1 detects nothing")
_PROCESS = flags.DEFINE_integer("process_id", None, "which of them this is, from 0")
_DATA_DIR = flags.DEFINE_string("data_dir", None, cli.DATA_DIR_HELP)


def run(
    config: ml_collections.ConfigDict,
    *,
    workdir: Path,
    data_dir: str | None = None,
    typed: str | None = None,
) -> Any:
    """Trains as `config` says; see `configs/default.py` for every option.

    Args:
      config: the resolved configuration.
      workdir: created if missing; resumed if it belongs to the same run.
      data_dir: where data sets are kept; None is `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
      typed: the command line, for reports; None if there was none.

    Returns:
      A `training.loop.Result`.

    Raises:
      ValueError: an option or combination that cannot work, or a workdir of another run.
      OSError: a data set that is not prepared, or a folder that cannot be written.
      TrainingError: the loss is not finite.
    """
    import jax
    import numpy as np

    from jaxcovid.data import identity
    from jaxcovid.data.ablations import trained_control
    from jaxcovid.data.datasets import open_dataset
    from jaxcovid.data.labels import make_targets, shuffled
    from jaxcovid.data.pipeline import check_options
    from jaxcovid.data.preprocessing import Preprocessing
    from jaxcovid.inference import frozen_parts
    from jaxcovid.inference import out_of_distribution as guards
    from jaxcovid.runtime import distributed, sharding
    from jaxcovid.training import loop, losses
    from jaxcovid.training.optimizer import make_optimizer, make_schedule
    from jaxcovid.training.step import check_batch_norm
    from jaxcovid.workdir import run as workdirs

    # Everything that can be refused is refused before anything is written.
    mesh = sharding.make_mesh()
    sharding.check_batch_size(config.batch_size, mesh)
    sharding.check_fsdp(config.fsdp, mesh)
    check_batch_norm(config.batch_norm)
    check_options(config.preprocess_on, config.bad_records)
    preprocessing = Preprocessing(**config.preprocessing)
    for name in ("epochs", "validations_per_epoch", "save_every_steps", "log_every_steps"):
        if not config[name] > 0:
            raise ValueError(f"{name} is {config[name]}; it must be above 0")
    control = trained_control(config.control)
    if config.workers < 0:
        raise ValueError(f"workers is {config.workers}; it must be 0 (threads) or more")
    dataset = open_dataset(config.dataset, data_dir)
    targets = make_targets(
        outputs=config.outputs,
        class_names=dataset.class_names,
        finding_names=dataset.finding_names,
        positive_class=config.positive_class,
        findings=config.findings,
        uncertain_as_one=config.uncertain.ones,
        uncertain_ignored=config.uncertain.ignore,
    )
    options = json.loads(config.to_json())
    parts = frozen_parts.part_facts(workdir, options, modality=dataset.modality)
    model = frozen_parts.make_model(options, outputs=len(targets.names), parts=parts)
    sides = {split: _sides(dataset, targets, split) for split in ("train", "validation")}
    steps_per_epoch = dataset.split_sizes["train"] / config.batch_size
    total_steps = max(1, round(config.epochs * steps_per_epoch))
    updates = math.ceil(total_steps / max(1, config.optimizer.accumulate_steps))
    schedule = make_schedule(
        learning_rate=config.optimizer.learning_rate,
        schedule=config.optimizer.schedule,
        updates=updates,
    )
    optimizer = make_optimizer(
        schedule,
        weight_decay=config.optimizer.weight_decay,
        head_rate_factor=config.optimizer.head_rate_factor,
        accumulate_steps=config.optimizer.accumulate_steps,
        total_steps=total_steps,
    )
    loss_weights = losses.class_weights(sides["train"], kind=config.class_weights)
    facts = {
        "config": options,
        "dataset": {
            "name": dataset.name,
            "digest": dataset.digest,
            "modality": dataset.modality,
            "window": dataset.window,
            "hu_offset": dataset.hu_offset,
            "class_names": list(dataset.class_names),
            "citation": dataset.citation,
        },
        "outputs": targets.names,
        "parts": frozen_parts.part_summaries(parts),
        "versions": {"jaxcovid": jaxcovid.__version__, "jax": jax.__version__},
        **({"command": typed} if typed else {}),
    }
    source, validation = dataset.source("train"), dataset.source("validation")
    validation_targets_of = targets
    if config.control == "shuffled_labels":
        validation_targets_of = shuffled(targets, validation, seed=config.seed)
        targets = shuffled(targets, source, seed=config.seed)
    validation_targets = np.stack(
        [validation_targets_of(validation[i]) for i in range(len(validation))]
    )
    draw_heatmaps = None
    if model.has_gradcam:
        draw_heatmaps = _heatmap_drawer(
            validation, validation_targets, preprocessing, model, control
        )
    with contextlib.ExitStack() as stack:
        if distributed.is_main():
            stack.enter_context(workdirs.lock(workdir))
            workdirs.claim(workdir, facts)
            # The data are those of the run: `claim` compares their digests.
            if not (workdir / identity.TRAINED_ON_FILE).exists():
                splits = dataset.identities()
                used = {split: splits[split] for split in ("train", "validation")}
                identity.save(workdir / identity.TRAINED_ON_FILE, used)
            frozen_parts.carry_parts(workdir, options, parts)
        distributed.wait_for_all("the workdir is claimed")
        result = loop.train(
            workdir=workdir,
            model=model,
            optimizer=optimizer,
            schedule=schedule,
            accumulate_steps=config.optimizer.accumulate_steps,
            source=source,
            targets=targets,
            screening=config.outputs != "findings",
            loss_weights=loss_weights,
            validation_source=validation,
            validation_targets=validation_targets,
            preprocessing=preprocessing,
            mesh=mesh,
            seed=config.seed,
            batch_size=config.batch_size,
            total_steps=total_steps,
            batch_norm=config.batch_norm,
            validate_every_steps=max(1, round(steps_per_epoch / config.validations_per_epoch)),
            save_every_steps=config.save_every_steps,
            log_every_steps=config.log_every_steps,
            early_stop_validations=config.early_stop_validations,
            preprocess_on=config.preprocess_on,
            bad_records=config.bad_records,
            workers=config.workers,
            fsdp=config.fsdp,
            profile=tuple(config.profile),
            identity=json.dumps([config.to_json(), updates, loss_weights.tolist(), str(model)]),
            control=control,
            frozen=frozen_parts.load_parts(workdir, model, mesh, size=preprocessing.size),
            draw_heatmaps=draw_heatmaps,
        )
        if distributed.is_main() and not result.terminated and not (workdir / guards.FILE).exists():
            guard = guards.guard_of_sources(source, validation)
            if guard:
                guard.save(workdir)
    best = max(result.history, key=lambda entry: (entry["auc"], entry["step"]), default=None)
    if distributed.is_main() and best and not result.terminated:
        logging.info(
            "Best validation AUC %.4f at step %d of %d. Evaluate it with\n"
            "  python -m jaxcovid.evaluate --workdir=%s --split=test",
            best["auc"],
            best["step"],
            result.step,
            workdir,
        )
    return result


def _sides(dataset: Any, targets: Any, split: str) -> Any:
    """Images on each side of each output, int [2, outputs]; see `targets.count_sides`.

    Raises:
      ValueError: a side has none.
    """
    from jaxcovid.data.labels import count_sides

    if split not in dataset.split_sizes:
        raise ValueError(f"{dataset.name} has no {split} split; it has {[*dataset.split_sizes]}")
    sides = count_sides(targets, (dataset.finding_counts or dataset.class_counts)[split])
    absent = [
        f"no image {side} {name}"
        for name, counts in zip(targets.names, sides.T, strict=True)
        for side, count in zip(("without", "with"), counts, strict=True)
        if not count
    ]
    if absent:
        fix = "leave it out of --config.findings" if dataset.finding_names else "add some"
        raise ValueError(f"the {split} split of {dataset.name} has {' and '.join(absent)}; {fix}")
    return sides


def _heatmap_drawer(
    validation: Any, targets: Any, preprocessing: Any, model: Any, control: Any
) -> Any:
    """Of the first few positives: variables of the network -> overlays uint8 [n, size, size, 3]."""
    import cv2
    import jax
    import numpy as np

    from jaxcovid.data.decoding import decode_gray
    from jaxcovid.inference.grad_cam import grad_cam
    from jaxcovid.report.figures import overlay

    positives = np.flatnonzero(targets[:, 0] > 0.5)[:4].tolist()
    compiled = jax.jit(lambda weights, image: grad_cam(weights, image, model=model))

    def draw(weights: Mapping[str, Any]) -> Any:
        grays = [decode_gray(validation[i]["image"]) for i in positives]
        if control:
            grays = [control(gray, {}) for gray in grays]
        inputs = np.stack([preprocessing(gray) for gray in grays])
        cams = np.asarray(compiled(jax.device_get(weights), inputs))
        size = (preprocessing.size, preprocessing.size)
        return np.stack(
            [overlay(cv2.resize(gray, size), cam) for gray, cam in zip(grays, cams, strict=True)]
        )

    return draw


def _parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses with absl; an option that the configuration lacks is one message too."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, TypeError) as error:
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        if config_path.__file__ not in files:
            raise  # a mistake in the configuration file, which its traceback shows
        cause: Any = error
        while isinstance(cause, Exception):
            cause = cause.args[0]
        sys.exit(f"error: an option of --config: {cause}\nconfigs/default.py lists them all.")


def main(argv: Sequence[str]) -> None:
    """Trains as the command line says."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; options start with --")
    with cli.user_errors():
        cli.start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
        result = run(
            _CONFIG.value,
            workdir=as_path(_WORKDIR.value),
            data_dir=_DATA_DIR.value,
            typed=cli.typed("train", sys.argv[1:]),
        )
    if result.terminated:
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    cli.use_huge_pages()
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=_parse_flags)
