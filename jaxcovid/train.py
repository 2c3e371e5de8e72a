"""Trains a network, or goes on where an earlier call of the same command was ended.

python -m jaxcovid.train --config=configs/covid_ct.py --workdir=runs/covid_ct
python -m jaxcovid.train --config=configs/covid_ct.py:scratch --workdir=runs/b \
    --config.batch_size=32
"""

import json
import math
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

import jaxcovid
from jaxcovid import command

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "FILE.py or FILE.py:variant", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run: checkpoints, metrics, figures")
_DATA_DIR = flags.DEFINE_string("data_dir", None, command.DATA_DIR_HELP)


def run(config: ml_collections.ConfigDict, *, workdir: Path, data_dir: str | None = None) -> Any:
    """Trains as `config` says; see `configs/default.py` for every option.

    Args:
      config: the resolved configuration.
      workdir: created if missing; resumed if it belongs to the same run.
      data_dir: where data sets are kept; None is `TFDS_DATA_DIR` or `~/tensorflow_datasets`.

    Returns:
      A `training.loop.Result`.

    Raises:
      ValueError: an option or combination that cannot work, or a workdir of another run.
      OSError: a data set that is not prepared, or a folder that cannot be written.
      TrainingError: the loss is not finite.
    """
    import jax
    import numpy as np

    from jaxcovid import workdir as workdirs
    from jaxcovid.data.datasets import open_dataset
    from jaxcovid.data.pipeline import check_preprocess_on
    from jaxcovid.data.preprocessing import Preprocessing
    from jaxcovid.models.deep_ct_net import DeepCTNet
    from jaxcovid.training import loop, losses, sharding
    from jaxcovid.training.optimizer import make_optimizer, make_schedule
    from jaxcovid.training.step import check_batch_norm

    # Everything that can be refused is refused before anything is written.
    mesh = sharding.make_mesh()
    sharding.check_batch_size(config.batch_size, mesh)
    check_batch_norm(config.batch_norm)
    check_preprocess_on(config.preprocess_on)
    model = DeepCTNet(**config.model)
    preprocessing = Preprocessing(**config.preprocessing)
    for name in ("epochs", "validations_per_epoch", "save_every_steps", "log_every_steps"):
        if not config[name] > 0:
            raise ValueError(f"{name} is {config[name]}; it must be above 0")
    if config.workers < 0:
        raise ValueError(f"workers is {config.workers}; it must be 0 (threads) or more")
    dataset = open_dataset(config.dataset, data_dir)
    names = losses.output_names(
        dataset.class_names, outputs=config.model.outputs, positive_class=config.positive_class
    )
    table = losses.target_table(dataset.class_names, names)
    for split in ("train", "validation"):
        missing = [c for c, n in dataset.class_counts.get(split, {"images": 0}).items() if not n]
        if missing:
            raise ValueError(
                f"the {split} split of {dataset.name} has no {' and no '.join(missing)}"
            )
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
    )
    loss_weights = losses.class_weights(
        list(dataset.class_counts["train"].values()), table, kind=config.class_weights
    )
    workdirs.claim(
        workdir,
        {
            "config": json.loads(config.to_json()),
            "dataset": {
                "name": dataset.name,
                "digest": dataset.digest,
                "class_names": list(dataset.class_names),
                "citation": dataset.citation,
            },
            "outputs": names,
            "versions": {"jaxcovid": jaxcovid.__version__, "jax": jax.__version__},
        },
    )
    validation = dataset.source("validation")
    labels = [validation[i]["label"] for i in range(len(validation))]
    result = loop.train(
        workdir=workdir,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        accumulate_steps=config.optimizer.accumulate_steps,
        source=dataset.source("train"),
        target_table=table,
        loss_weights=loss_weights,
        validation_source=validation,
        validation_targets=table[np.array(labels)],
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
        workers=config.workers,
        identity=json.dumps([config.to_json(), updates, loss_weights.tolist()]),
        draw_heatmaps=_heatmap_drawer(validation, labels, table, preprocessing, model),
    )
    best = max(result.history, key=lambda entry: (entry["auc"], entry["step"]), default=None)
    if best and not result.terminated:
        logging.info(
            "Best validation AUC %.4f at step %d of %d. Evaluate it with\n"
            "  python -m jaxcovid.evaluate --workdir=%s --split=test",
            best["auc"],
            best["step"],
            result.step,
            workdir,
        )
    return result


def _heatmap_drawer(
    validation: Any, labels: Sequence[int], table: Any, preprocessing: Any, model: Any
) -> Any:
    """A function from weights to overlays uint8 [n, size, size, 3] of the first few positives."""
    import cv2
    import jax
    import numpy as np

    from jaxcovid.data.images import decode_gray
    from jaxcovid.evaluation.cam import grad_cam
    from jaxcovid.evaluation.figures import overlay

    positives = [i for i, label in enumerate(labels) if table[label, 0] > 0][:4]
    compiled = jax.jit(lambda weights, image: grad_cam(weights, image, model=model))

    def draw(weights: Mapping[str, Any]) -> Any:
        grays = [decode_gray(validation[i]["image"]) for i in positives]
        inputs = np.stack([preprocessing(gray) for gray in grays])
        cams = np.asarray(compiled(jax.device_get(weights), inputs))
        size = (preprocessing.size, preprocessing.size)
        return np.stack(
            [overlay(cv2.resize(gray, size), cam) for gray, cam in zip(grays, cams, strict=True)]
        )

    return draw


def main(argv: Sequence[str]) -> None:
    """Parses the command line and trains."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; options start with --")
    with command.user_errors():
        command.start()
        result = run(_CONFIG.value, workdir=Path(_WORKDIR.value), data_dir=_DATA_DIR.value)
    if result.terminated:
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    command.use_huge_pages()
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
