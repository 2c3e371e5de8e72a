"""What a training learns from: its task, and the splits of its data as the network sees them."""

from collections.abc import Sequence
from dataclasses import dataclass

import ml_collections
import numpy as np

from jaxcovid.data import labels
from jaxcovid.data.ablations import Ablation, trained_ablation
from jaxcovid.data.datasets import SEPARATOR, Dataset, Record
from jaxcovid.data.labels import Encoder, MasksOnlyEncoder, Task, shuffled
from jaxcovid.data.sampling import Stratum
from jaxcovid.data.volume_source import by_volumes
from jaxcovid.models.build import MASKED, REPRESENTATIONS, TWO_VIEWS
from jaxcovid.training import mixture
from jaxcovid.training.mixture import Mixture, make_strata

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Split:
    """Records of a data set, as the network is to see them.

    Attributes:
      source: the records.
      encode: makes their targets.
      ablation: alters their images; None alters nothing.
      masks: their masks are segmented.
      strata: records that have a share of every batch, see `sampling.endless_order`.
      views: two views of each image are compared.
    """

    source: Sequence[Record]
    encode: Encoder
    ablation: Ablation | None
    masks: bool = False
    strata: Sequence[Stratum] = ()
    views: bool = False


def make_task(config: ml_collections.ConfigDict, dataset: Dataset) -> Task:
    """What the network is asked.

    Raises:
      ValueError: an objective that the data set has no masks for, or see `labels.make_task`.
    """
    if config.objective in MASKED:
        if not dataset.masks:
            raise ValueError(
                f"objective={config.objective} needs masks, and {dataset.name} has none; data sets "
                "with masks: phantom, covid19_ct_seg, mosmed, folder with a column lesion_mask"
            )
        if config.ablation != "none":
            raise ValueError(
                f"ablation={config.ablation} alters images, not masks; use objective=screening"
            )
    if config.objective == "segmentation":
        # Its score is of the lesion whatever the classes are, and one class is enough.
        return Task(config.task, (config.positive_class,))
    if config.objective in REPRESENTATIONS:  # which learn no class, but are probed for one
        return Task("binary", (config.positive_class,))
    return labels.make_task(
        config.task,
        class_names=dataset.class_names,
        finding_names=dataset.finding_names,
        positive_class=config.positive_class,
        findings=config.findings,
        uncertain_positive=config.uncertain.ones,
        uncertain_unknown=config.uncertain.ignore,
    )


def check_views(config: ml_collections.ConfigDict) -> None:
    """Refuses options that give no views of images to compare, where the objective needs them.

    Raises:
      ValueError: naming the option.
    """
    if config.objective not in TWO_VIEWS:
        return
    if config.preprocess_on != "host":
        raise ValueError(
            f"preprocess_on is {config.preprocess_on}, which makes one view of each image; "
            f"objective={config.objective} needs --config.preprocess_on=host"
        )
    if config.batch_size < 2:
        raise ValueError(
            f"objective={config.objective} compares the images of a batch, and batch_size is "
            f"{config.batch_size}; use 2 or more, better 16"
        )


def check_volumes(config: ml_collections.ConfigDict) -> None:
    """Refuses options that volumes do not go with.

    Raises:
      ValueError: naming the option.
    """
    if config.volume.slices < 0:
        raise ValueError(f"volume.slices is {config.volume.slices}; it must be 0 or more")
    if not config.volume.slices:
        return
    wrong = [
        f"{name}={value}"
        for name, value, alone in (
            ("objective", config.objective, "screening"),
            ("preprocess_on", config.preprocess_on, "host"),
            ("cache", config.cache, "none"),
            ("lungs.workdir", config.lungs.workdir, ""),
            ("mixture.balance", config.mixture.balance, "none"),
            ("mixture.weights", tuple(config.mixture.weights), ()),
            ("class_weights", config.class_weights, "none"),
        )
        if value != alone
    ]
    if SEPARATOR in config.dataset:
        wrong.append(f"dataset={config.dataset}")
    if wrong:
        raise ValueError(
            f"volume.slices={config.volume.slices} is for screening on one data set, as the host "
            f"prepares it; it does not go with {', '.join(wrong)}"
        )


def make_mixture(config: ml_collections.ConfigDict) -> Mixture:
    """How the sources share the batches.

    Raises:
      ValueError: an option that does not exist, is out of range, or does not go with another.
    """
    options = config.mixture
    made = Mixture(tuple(options.weights), options.balance, tuple(options.unlabelled))
    if made.alters_shares and config.class_weights != "none":
        raise ValueError(
            f"class_weights={config.class_weights} is for images that come once an epoch, which "
            "mixture.weights and mixture.balance change; use --config.class_weights=none with "
            "--config.mixture.balance=classes"
        )
    return made


def unlabelled_sources(
    config: ml_collections.ConfigDict, dataset: Dataset, task: Task
) -> frozenset[str]:
    """See `mixture.unlabelled_sources`."""
    return mixture.unlabelled_sources(
        dataset, task, make_mixture(config), objective=config.objective
    )


def make_split(
    dataset: Dataset,
    task: Task,
    name: str,
    config: ml_collections.ConfigDict,
    *,
    unlabelled: frozenset[str] = frozenset(),
) -> Split:
    """A split as the network is to see it.

    Args:
      dataset: of the training.
      task: what the network is asked.
      name: of the split.
      config: the resolved configuration.
      unlabelled: see `mixture.unlabelled_sources`.

    Raises:
      ValueError: not as many weights as sources.
    """
    source = by_volumes(dataset.source(name), config.volume.slices)
    encode = task.encoder(dataset.class_names)
    if unlabelled:
        encode = MasksOnlyEncoder(encode, unlabelled)
    strata: Sequence[Stratum] = ()
    if name == "train":
        strata = make_strata(dataset, source, encode, make_mixture(config))
    if config.ablation == "shuffled_labels":
        encode = shuffled(encode, source, seed=config.seed)
    return Split(
        source,
        encode,
        trained_ablation(config.ablation),
        masks=config.objective in MASKED,
        strata=strata,
        views=config.objective in TWO_VIEWS,
    )


def class_counts(
    dataset: Dataset,
    task: Task,
    split: str,
    objective: str,
    unlabelled: frozenset[str] = frozenset(),
) -> np.ndarray:
    """Negative and positive images of each output, int [2, outputs].

    Raises:
      ValueError: no such split, or an output without positive or negative images, unless classes
        are not learned.
    """
    if split not in dataset.split_sizes:
        raise ValueError(f"{dataset.name} has no {split} split; it has {[*dataset.split_sizes]}")
    if objective in ("segmentation", *REPRESENTATIONS):
        return np.ones((2, len(task.outputs)), int)
    counts = mixture.class_counts(dataset, task, split, unlabelled)
    absent = [
        f"no image {side} {name}"
        for name, column in zip(task.outputs, counts.T, strict=True)
        for side, count in zip(("without", "with"), column, strict=True)
        if not count
    ]
    if absent:
        fix = "leave it out of --config.findings" if dataset.finding_names else "add some"
        raise ValueError(f"the {split} split of {dataset.name} has {' and '.join(absent)}; {fix}")
    return counts
