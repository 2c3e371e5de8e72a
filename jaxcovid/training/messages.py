"""What a training says of itself when it starts and when it has ended."""

from pathlib import Path

from absl import logging

from jaxcovid.data.datasets import Dataset
from jaxcovid.data.joined import members_of
from jaxcovid.models.representation_net import RepresentationNet
from jaxcovid.runtime import distributed
from jaxcovid.training import mixture
from jaxcovid.training.experiment import Experiment
from jaxcovid.training.loop import Result
from jaxcovid.training.step import devices_together

_FEW_ROWS = 8  # of a device, whose own batch normalisation sees little


def show_sources(experiment: Experiment, dataset: Dataset) -> None:
    """Logs what a joined data set is made of, and what is wrong with it."""
    if len(members_of(dataset)) < 2 or not distributed.is_main():
        return
    task, unlabelled = experiment.run.task, experiment.unlabelled
    logging.info("Sources:\n%s", mixture.describe(dataset, task, unlabelled))
    if experiment.run.config["objective"] != "segmentation":
        mixture.warn_of_telling_sources(dataset, task, unlabelled)


def log_best(experiment: Experiment, result: Result, workdir: Path) -> None:
    """Says which checkpoint is the best and what to do with it."""
    best = max(result.history, key=lambda entry: (entry.score, entry.step))
    step = f"at step {best.step} of {result.step}"
    if isinstance(experiment.model, RepresentationNet):
        found = f"Lowest validation loss {best.loss:.4f} {step}. Begin a training with it:"
        backbone = experiment.run.config["model"]["backbone"]
        options = f"--config.init.weights={workdir} --config.model.backbone={backbone}"
        logging.info("%s\n  python -m jaxcovid.train %s ...", found, options)
        return
    what = "" if best.dice else " AUC"
    logging.info(
        "Best validation%s %.4f %s. Evaluate it with\n"
        "  python -m jaxcovid.evaluate --workdir=%s --split=test",
        what,
        best.score,
        step,
        workdir,
    )


def warn_of_few_rows(experiment: Experiment) -> None:
    """Warns if batch normalisation sees few images."""
    together = devices_together(experiment.batch_norm, experiment.mesh)
    images = experiment.plan.batch_size // experiment.mesh.size * together
    if experiment.batch_norm != "global" and images < _FEW_ROWS:
        logging.warning(
            "Only %d images are normalised together: at 256x256 the top of the attention pyramid "
            "is 1x1, so its batch normalisation sees only that many numbers. Use at least %d.",
            images,
            _FEW_ROWS,
        )


def warn_of_slow_network(experiment: Experiment) -> None:
    """Warns if batch normalisation is synchronised over the network between slices."""
    slices, devices = experiment.mesh.devices.shape
    if slices > 1 and devices_together(experiment.batch_norm, experiment.mesh) > devices:
        logging.warning(
            "Batch normalisation is synchronised over %d slices: two all-reduces of each "
            "normalised map, one after the other, cross the slower network between them in every "
            "step. --config.batch_norm=groups:%d stays within a slice.",
            slices,
            devices,
        )
