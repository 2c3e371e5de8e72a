"""What each output of a network should say of a record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# binary: the positive class against the rest, one sigmoid. three_way: three one-against-rest
# sigmoids. two_way: a softmax over two classes. findings: a sigmoid for each finding of a film.
OUTPUTS = ("binary", "three_way", "two_way", "findings")
# A target that is not known: left out of the loss and of scores.
IGNORED = -1.0
_UNCERTAIN, _NOT_MENTIONED = -1, -2  # in a record's findings, beside 0 and 1


@dataclass(frozen=True)
class ClassTargets:
    """Targets of records with a label.

    Attributes:
      names: of the outputs, the positive class first.
      class_names: in label order.
    """

    names: tuple[str, ...]
    class_names: tuple[str, ...]

    def __call__(self, record: Mapping[str, Any]) -> np.ndarray:
        """float32 [outputs]: 1 where the record is of the output's class, else 0."""
        label = self.class_names[record["label"]]
        return np.array([label == name for name in self.names], np.float32)


@dataclass(frozen=True)
class FindingTargets:
    """Targets of records with findings.

    A finding that is not mentioned counts as absent; of an uncertain one the policy decides.

    Attributes:
      names: of the findings, one an output.
      ones: findings of which uncertain counts as present.
      ignored: findings of which uncertain counts as unknown. Of all others it counts as absent.
    """

    names: tuple[str, ...]
    ones: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def target(self, name: str, value: int) -> float:
        """1, 0 or `IGNORED` for a value of a finding: 1, 0, -1 uncertain, -2 not mentioned."""
        if value == _UNCERTAIN:
            return 1.0 if name in self.ones else IGNORED if name in self.ignored else 0.0
        return 0.0 if value == _NOT_MENTIONED else float(value)

    def __call__(self, record: Mapping[str, Any]) -> np.ndarray:
        """float32 [outputs] in {0, 1, `IGNORED`}."""
        found = record["findings"]
        return np.array([self.target(name, found[name]) for name in self.names], np.float32)


@dataclass(frozen=True)
class ShuffledTargets:
    """Targets of other records of the same split: a control that nothing can be learned from.

    Attributes:
      names: of the outputs.
      of: targets by the id of a record.
    """

    names: tuple[str, ...]
    of: Mapping[str, np.ndarray]

    def __call__(self, record: Mapping[str, Any]) -> np.ndarray:
        """float32 [outputs]."""
        return self.of[record["id"]]


Targets = ClassTargets | FindingTargets | ShuffledTargets


def shuffled(
    targets: ClassTargets | FindingTargets, source: Sequence[Mapping[str, Any]], *, seed: int
) -> ShuffledTargets:
    """The targets of a split, dealt out anew among its records."""
    records = (source[i] for i in range(len(source)))
    ids, found = zip(*((record["id"], targets(record)) for record in records), strict=True)
    order = np.random.default_rng(seed).permutation(len(found))
    return ShuffledTargets(
        targets.names, {name: found[other] for name, other in zip(ids, order, strict=True)}
    )


def make_targets(
    *,
    outputs: str,
    class_names: Sequence[str],
    finding_names: Sequence[str],
    positive_class: str,
    findings: Sequence[str] = (),
    uncertain_as_one: Sequence[str] = (),
    uncertain_ignored: Sequence[str] = (),
) -> Targets:
    """The targets of a data set.

    Args:
      outputs: one of `OUTPUTS`.
      class_names: of the data set, in label order; empty if it has findings.
      finding_names: of the data set; empty if it has classes.
      positive_class: the class that the screening looks for.
      findings: for `findings`, the outputs.
      uncertain_as_one: see `FindingTargets.ones`.
      uncertain_ignored: see `FindingTargets.ignored`.

    Raises:
      ValueError: outputs and data set that do not fit, or a class or finding that is not there.
    """
    if outputs not in OUTPUTS:
        raise ValueError(f"outputs is {outputs!r}; use one of {', '.join(OUTPUTS)}")
    if outputs == "findings":
        if not finding_names:
            raise ValueError(
                f"outputs=findings, but the data set has classes ({', '.join(class_names)}); use "
                "--config.outputs=binary"
            )
        if not findings or len(set(findings)) < len(findings):
            raise ValueError(f"findings must name each output once, got {tuple(findings)}")
        for option, names in (
            ("findings", findings),
            ("uncertain.ones", uncertain_as_one),
            ("uncertain.ignore", uncertain_ignored),
        ):
            if unknown := [name for name in names if name not in finding_names]:
                raise ValueError(
                    f"{option} has {', '.join(unknown)}, which the data set does not tell of; it "
                    f"tells of {', '.join(finding_names)}"
                )
        if both := sorted({*uncertain_as_one} & {*uncertain_ignored}):
            raise ValueError(f"uncertain.ones and uncertain.ignore both have {', '.join(both)}")
        return FindingTargets(tuple(findings), tuple(uncertain_as_one), tuple(uncertain_ignored))
    if finding_names:
        raise ValueError(
            f"outputs={outputs} needs a data set with classes, this one tells of findings "
            f"({', '.join(finding_names)}); use --config.outputs=findings"
        )
    if positive_class not in class_names:
        raise ValueError(
            f"positive_class {positive_class!r} is not a class of the data set "
            f"({', '.join(class_names)}); set --config.positive_class"
        )
    names = [positive_class]
    if outputs != "binary":
        count = {"three_way": 3, "two_way": 2}[outputs]
        if len(class_names) != count:
            raise ValueError(
                f"outputs={outputs} needs {count} classes, the data set has {len(class_names)} "
                f"({', '.join(class_names)}); use --config.outputs=binary"
            )
        names += [name for name in class_names if name != positive_class]
    return ClassTargets(tuple(names), tuple(class_names))


def count_sides(targets: Targets, counts: Mapping[str, Any]) -> np.ndarray:
    """Records of each side, int [2, outputs]: negative (row 0) and positive targets (row 1).

    Args:
      targets: of the data set.
      counts: images of each class, or for each finding of each value ("1", "0", "-1", "-2").
    """
    sides = np.zeros((2, len(targets.names)), int)
    for column, name in enumerate(targets.names):
        if isinstance(targets, ClassTargets):
            sides[:, column] = sum(counts.values()) - counts[name], counts[name]
            continue
        for value, count in counts[name].items():
            target = targets.target(name, int(value))
            if target != IGNORED:
                sides[int(target), column] += count
    return sides
