"""The task of a network: what its outputs mean, and the target of each for a record."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxcovid.data.datasets import Record

# binary: the positive class against the rest, one sigmoid. one_vs_rest: a sigmoid for each of three
# classes. multiclass: a softmax over two classes. multilabel: a sigmoid for each finding of a film.
KINDS = ("binary", "one_vs_rest", "multiclass", "multilabel")
_CLASSES = {"one_vs_rest": 3, "multiclass": 2}  # that a data set needs
UNKNOWN = -1.0  # a target that is left out of the loss and of scores
_UNCERTAIN, _NOT_MENTIONED = -1, -2  # in a record's findings, beside 0 and 1

Encoder = Callable[[Record], np.ndarray]  # float32 [outputs] in {0, 1, UNKNOWN}


@dataclass(frozen=True)
class Task:
    """What a network is asked.

    Attributes:
      kind: one of `KINDS`.
      outputs: name of each output: classes, the positive one first, or findings.
      uncertain_positive: findings of which an uncertain label counts as present (U-Ones).
      uncertain_unknown: findings of which it counts as unknown (U-Ignore). Of all others it counts
        as absent, and so does a finding that is not mentioned.
    """

    kind: str
    outputs: tuple[str, ...]
    uncertain_positive: tuple[str, ...] = ()
    uncertain_unknown: tuple[str, ...] = ()

    @property
    def screens(self) -> bool:
        """True if it looks for a positive class, whose AUC is the headline score.

        Else the outputs are findings, and the mean of their AUCs is.
        """
        return self.kind != "multilabel"

    @property
    def exclusive(self) -> bool:
        """True if the outputs are one softmax; else they are independent sigmoids."""
        return self.kind == "multiclass"

    @property
    def positive_class(self) -> str:
        """The class of the first output."""
        return self.outputs[0]

    def leading(self, probabilities: Sequence[float]) -> int:
        """Index of the output that ranks images: the positive class, else the highest finding."""
        return 0 if self.screens else max(range(len(probabilities)), key=probabilities.__getitem__)

    def only_positive(self) -> "Task":
        """The task of the first output alone."""
        return dataclasses.replace(self, outputs=self.outputs[:1])

    def encoder(self, class_names: Sequence[str]) -> Encoder:
        """What makes the targets of a record; pickles, so that worker processes can use it.

        Args:
          class_names: of the data set that the records are from, in label order; none of one
            with findings, of which the class is unknown.
        """
        if self.screens and not class_names:
            return UnknownEncoder(len(self.outputs))
        if self.screens:
            return ClassEncoder(self.outputs, tuple(class_names))
        return FindingEncoder(self)

    def finding_target(self, name: str, value: int) -> float:
        """1, 0 or `UNKNOWN` for a value of a finding: 1, 0, -1 uncertain, -2 not mentioned."""
        if value == _UNCERTAIN:
            if name in self.uncertain_positive:
                return 1.0
            return UNKNOWN if name in self.uncertain_unknown else 0.0
        return 0.0 if value == _NOT_MENTIONED else float(value)

    def class_counts(self, counts: Mapping[str, Any]) -> np.ndarray:
        """Negative (row 0) and positive targets (row 1) of each output, int [2, outputs].

        Args:
          counts: images of each class, or for each finding of each value ("1", "0", "-1", "-2").
        """
        totals = np.zeros((2, len(self.outputs)), int)
        for column, name in enumerate(self.outputs):
            if self.screens:
                positive = counts.get(name, 0)  # one of several sources may not have the class
                totals[:, column] = sum(counts.values()) - positive, positive
                continue
            for value, count in counts[name].items():
                target = self.finding_target(name, int(value))
                if target != UNKNOWN:
                    totals[int(target), column] += count
        return totals


@dataclass(frozen=True)
class ClassEncoder:
    """Targets of records with a label: 1 where the record is of the output's class, else 0."""

    outputs: tuple[str, ...]
    class_names: tuple[str, ...]

    def __call__(self, record: Record) -> np.ndarray:
        label = self.class_names[record["label"]]
        return np.array([label == name for name in self.outputs], np.float32)


@dataclass(frozen=True)
class UnknownEncoder:
    """Targets of records without a label."""

    outputs: int

    def __call__(self, record: Record) -> np.ndarray:
        del record
        return np.full(self.outputs, UNKNOWN, np.float32)


@dataclass(frozen=True)
class FindingEncoder:
    """Targets of records with findings."""

    task: Task

    def __call__(self, record: Record) -> np.ndarray:
        values = record["findings"]
        targets = [self.task.finding_target(name, values[name]) for name in self.task.outputs]
        return np.array(targets, np.float32)


@dataclass(frozen=True)
class ShuffledEncoder:
    """Targets of other records of the same split, from which nothing can be learned.

    Attributes:
      targets: float32 [outputs] by the id of a record.
    """

    targets: Mapping[str, np.ndarray]

    def __call__(self, record: Record) -> np.ndarray:
        return self.targets[record["id"]]


@dataclass(frozen=True)
class MasksOnlyEncoder:
    """Targets of a joined data set of which some sources teach nothing but their masks.

    Attributes:
      encoder: of all other records.
      sources: whose targets are `UNKNOWN`.
    """

    encoder: Encoder
    sources: frozenset[str]

    def __call__(self, record: Record) -> np.ndarray:
        targets = self.encoder(record)
        return np.full_like(targets, UNKNOWN) if record["source"] in self.sources else targets


def shuffled(encoder: Encoder, source: Sequence[Record], *, seed: int) -> ShuffledEncoder:
    """The targets of a split, dealt out anew among its records."""
    records = (source[i] for i in range(len(source)))
    ids, targets = zip(*((record["id"], encoder(record)) for record in records), strict=True)
    order = np.random.default_rng(seed).permutation(len(targets))
    return ShuffledEncoder({name: targets[i] for name, i in zip(ids, order, strict=True)})


def make_task(
    kind: str,
    *,
    class_names: Sequence[str],
    finding_names: Sequence[str],
    positive_class: str,
    findings: Sequence[str] = (),
    uncertain_positive: Sequence[str] = (),
    uncertain_unknown: Sequence[str] = (),
) -> Task:
    """The task of a configuration on a data set.

    Args:
      kind: one of `KINDS`.
      class_names: of the data set, in label order; empty if it has findings.
      finding_names: of the data set; empty if it has classes.
      positive_class: the class that the screening looks for.
      findings: of `multilabel`, the outputs.
      uncertain_positive: see `Task`.
      uncertain_unknown: see `Task`.

    Raises:
      ValueError: task and data set that do not fit, or a class or finding that is not there.
    """
    if kind not in KINDS:
        raise ValueError(f"task is {kind!r}; use one of {', '.join(KINDS)}")
    if kind == "multilabel":
        if not finding_names:
            raise ValueError(
                f"task=multilabel, but the data set has classes ({', '.join(class_names)}); use "
                "--config.task=binary"
            )
        task = Task(kind, tuple(findings), tuple(uncertain_positive), tuple(uncertain_unknown))
        _check_findings(task, finding_names)
        return task
    if finding_names:
        raise ValueError(
            f"task={kind} needs a data set with classes, this one has findings "
            f"({', '.join(finding_names)}); use --config.task=multilabel"
        )
    if positive_class not in class_names:
        raise ValueError(
            f"positive_class {positive_class!r} is not a class of the data set "
            f"({', '.join(class_names)}); set --config.positive_class"
        )
    outputs = [positive_class]
    if kind != "binary":
        if len(class_names) != _CLASSES[kind]:
            raise ValueError(
                f"task={kind} needs {_CLASSES[kind]} classes, the data set has {len(class_names)} "
                f"({', '.join(class_names)}); use --config.task=binary"
            )
        outputs += [name for name in class_names if name != positive_class]
    return Task(kind, tuple(outputs))


def _check_findings(task: Task, finding_names: Sequence[str]) -> None:
    """Refuses findings that are named twice or that the data set does not have."""
    if not task.outputs or len(set(task.outputs)) < len(task.outputs):
        raise ValueError(f"findings must name each output once, got {task.outputs}")
    for option, names in (
        ("findings", task.outputs),
        ("uncertain.ones", task.uncertain_positive),
        ("uncertain.ignore", task.uncertain_unknown),
    ):
        if unknown := [name for name in names if name not in finding_names]:
            raise ValueError(
                f"{option} has {', '.join(unknown)}, which the data set does not label; it labels "
                f"{', '.join(finding_names)}"
            )
    if both := sorted({*task.uncertain_positive} & {*task.uncertain_unknown}):
        raise ValueError(f"uncertain.ones and uncertain.ignore both have {', '.join(both)}")
