"""How the sources of a training share its batches, and which of them teach their classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from absl import logging
from tabulate import tabulate

from jaxcovid.data.datasets import Dataset, Record
from jaxcovid.data.identity import scope_of
from jaxcovid.data.joined import members_of
from jaxcovid.data.joined_source import JoinedSource
from jaxcovid.data.labels import UNKNOWN, Encoder, Task
from jaxcovid.data.sampling import Stratum

BALANCES = ("none", "classes")


@dataclass(frozen=True)
class Mixture:
    """Options of a training on several sources; see `config.mixture`.

    Attributes:
      weights: share of each source in a batch, relative to the others; none: by its images.
      balance: `classes` takes from each source as many images with the positive class as without.
      unlabelled: names of sources whose classes are not learned.

    Raises:
      ValueError: a weight is not above 0, or there is no such balance.
    """

    weights: tuple[float, ...] = ()
    balance: str = "none"
    unlabelled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(weight > 0 for weight in self.weights):
            raise ValueError(f"mixture.weights are {self.weights}; each must be above 0")
        if self.balance not in BALANCES:
            raise ValueError(
                f"mixture.balance is {self.balance!r}; use one of {', '.join(BALANCES)}"
            )

    @property
    def alters_shares(self) -> bool:
        """True if the images of a source or class are more or fewer than they are in the split."""
        return bool(self.weights) or self.balance != "none"


def unlabelled_sources(
    dataset: Dataset, task: Task, mixture: Mixture, *, objective: str
) -> frozenset[str]:
    """The sources whose classes are not learned: those that `mixture` names, and more if joint.

    A network that is trained on masks as well, `joint`, learns nothing but masks from a source with
    masks whose images are all of one class: it would learn to tell the source, not the class.

    Raises:
      ValueError: a name is of no source, or only masks could be learned and there are none.
    """
    members = members_of(dataset)
    names = {alias: m.name for m in members for alias in (m.name, scope_of(m.name))}
    if unknown := [name for name in mixture.unlabelled if name not in names]:
        raise ValueError(
            f"mixture.unlabelled has {', '.join(unknown)}, no source of the training; they are "
            f"{', '.join(member.name for member in members)}"
        )
    if mixture.unlabelled and objective != "joint":
        raise ValueError(
            f"mixture.unlabelled leaves masks alone to be learned, but objective={objective}; use "
            "--config.objective=joint, or leave those sources out of --config.dataset"
        )
    unlabelled = {names[name] for name in mixture.unlabelled}
    without = [m.name for m in members if m.name in unlabelled and not m.masks]
    if without:
        raise ValueError(
            f"mixture.unlabelled has {', '.join(without)}, of which no masks are known either; "
            "leave it out of --config.dataset"
        )
    if objective == "joint" and len(members) > 1:
        unlabelled |= {m.name for m in members if m.masks and _of_one_class(m, task)}
    if unlabelled and task.kind == "multiclass":
        raise ValueError(
            f"the classes of {', '.join(sorted(unlabelled))} are not learned, which a softmax "
            "cannot leave out; use --config.task=binary"
        )
    return frozenset(unlabelled)


def class_counts(
    dataset: Dataset, task: Task, split: str, unlabelled: frozenset[str] = frozenset()
) -> np.ndarray:
    """Negative and positive images of each output, int [2, outputs], of sources that teach it."""
    counts = np.zeros((2, len(task.outputs)), int)
    for member in members_of(dataset):
        if split in member.split_sizes and member.name not in unlabelled:
            counts += _member_counts(member, task, split)
    return counts


def make_strata(
    dataset: Dataset,
    source: Sequence[Record],
    encode: Encoder,
    mixture: Mixture,
) -> tuple[Stratum, ...]:
    """The shares of a training split; none if every image is to come once an epoch.

    Args:
      dataset: of the training.
      source: its training split; read through if the classes are balanced.
      encode: makes the targets; the first output is the positive class.
      mixture: the options.

    Raises:
      ValueError: not as many weights as sources.
    """
    members = members_of(dataset)
    if mixture.weights and len(mixture.weights) != len(members):
        raise ValueError(
            f"mixture.weights has {len(mixture.weights)} numbers for {len(members)} sources "
            f"({', '.join(member.name for member in members)}); give one for each, in this order"
        )
    if not mixture.alters_shares:
        return ()
    strata = []
    for number, member in enumerate(members):
        positions = [
            i
            for i in range(len(source))
            if not isinstance(source, JoinedSource) or source.member_of(i) == member.name
        ]
        weight = mixture.weights[number] if mixture.weights else len(positions)
        groups = [positions]
        if mixture.balance == "classes":
            groups = _by_target(positions, source, encode)
        strata += [Stratum(group, weight / len(groups)) for group in groups]
    return tuple(strata)


def describe(dataset: Dataset, task: Task, unlabelled: frozenset[str]) -> str:
    """A table of the sources: their images, and what their classes count as."""
    rows = []
    for member in members_of(dataset):
        images = " / ".join(str(member.split_sizes.get(split, 0)) for split in dataset.split_sizes)
        for label, count in member.class_counts["train"].items():
            meaning = "positive" if label in task.outputs[:1] else "negative"
            if member.name in unlabelled:
                meaning = "not used"
            rows.append((member.name, images, label, count, meaning if task.screens else ""))
    headers = ("source", " / ".join(dataset.split_sizes), "label", "in training", "counts as")
    return tabulate(rows, headers, disable_numparse=True)


def warn_of_telling_sources(dataset: Dataset, task: Task, unlabelled: frozenset[str]) -> None:
    """Warns of sources of one class alone: a network that tells the source tells the class."""
    for member in members_of(dataset):
        if member.name not in unlabelled and _of_one_class(member, task):
            logging.warning(
                "All training images of %s are %s %s: the network can tell the class by what is "
                "particular to the source. Leave it out, or learn its masks alone "
                "(--config.objective=joint)",
                member.name,
                "with" if _member_counts(member, task, "train")[1, 0] else "without",
                task.positive_class,
            )


def _member_counts(member: Dataset, task: Task, split: str) -> np.ndarray:
    """See `class_counts`; a class that the source does not have counts 0."""
    return task.class_counts((member.finding_counts or member.class_counts)[split])


def _of_one_class(member: Dataset, task: Task) -> bool:
    """True if all training images of a source are with, or all are without the positive class."""
    return task.screens and not _member_counts(member, task, "train")[:, 0].all()


def _by_target(
    positions: Sequence[int], source: Sequence[Record], encode: Encoder
) -> list[list[int]]:
    """Positions of images with and of those without the positive class; all if only one is there.

    Images of which it is not known are in neither, unless it is known of none.
    """
    targets = np.array([encode(source[i])[0] for i in positions])
    groups = [np.array(positions)[targets == value].tolist() for value in (1.0, 0.0)]
    if (targets == UNKNOWN).any() or not all(groups):
        return [list(positions)]
    return groups
