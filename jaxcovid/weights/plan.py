"""How the arrays of a file become our variables; every source makes plans, see `sources`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from jaxcovid.weights.converted import ConvertedWeights, Description
from jaxcovid.weights.files.read import WeightFile

_NAMED = 3  # arrays that a message names


class Entry(NamedTuple):
    """One of our variables.

    Attributes:
      ours: its path, such as `params/backbone/stem_conv/kernel`.
      theirs: the arrays that it is made of, and the shape that each must have.
      change: makes the variable of them, in this order.
    """

    ours: str
    theirs: Mapping[str, tuple[int, ...]]
    change: Callable[..., np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Plan(Description):
    """What a file holds if it is of one source and network.

    Attributes:
      arrays: of the file, by the names that the source gives them today.
      entries: our variables.
      skipped: arrays that are left out, and why.
    """

    arrays: Mapping[str, np.ndarray]
    entries: tuple[Entry, ...]
    skipped: Mapping[str, str]

    @property
    def title(self) -> str:
        return f"{self.backbone} of {self.origin.name}"

    def used(self) -> set[str]:
        """Names of the arrays that the variables are made of."""
        return {name for entry in self.entries for name in entry.theirs}

    def missing(self) -> list[str]:
        """Names of arrays that the file should have and has not."""
        return sorted(self.used() - set(self.arrays))

    def unknown(self) -> list[str]:
        """Names of arrays that the network should not have."""
        return sorted(set(self.arrays) - self.used() - set(self.skipped))

    def mismatched(self) -> list[str]:
        """The arrays of other shapes, each with its shape and the right one."""
        return [
            f"{name} is {list(self.arrays[name].shape)} instead of {list(shape)}"
            for entry in self.entries
            for name, shape in entry.theirs.items()
            if name in self.arrays and self.arrays[name].shape != shape
        ]

    def carry_out(self, file: WeightFile) -> ConvertedWeights:
        """The variables.

        Raises:
          ValueError: an array is missing, has another shape, or has a value that is not finite.
        """
        if missing := self.missing():
            raise ValueError(f"{self.title}: {named(missing)} missing")
        if mismatched := self.mismatched():
            raise ValueError(
                f"its names are those of {self.title}, but {len(mismatched)} of "
                f"{len(self.used())} arrays have other shapes: {shortened(mismatched, '; ')}"
            )
        variables = {}
        for entry in self.entries:
            array = entry.change(*(self.arrays[name] for name in entry.theirs))
            variables[entry.ours] = array.astype(np.float32)
            if not np.isfinite(variables[entry.ours]).all():
                raise ValueError(f"{', '.join(entry.theirs)}: some values are not finite")
        shared = {field.name: getattr(self, field.name) for field in fields(Description)}
        shared["origin"] = replace(self.origin, file=file.name, sha256=file.sha256)
        return ConvertedWeights(**shared, variables=variables, skipped=self._skipped_in_words())

    def _skipped_in_words(self) -> tuple[str, ...]:
        """One sentence for each reason."""
        names: dict[str, list[str]] = {}
        for name, reason in self.skipped.items():
            names.setdefault(reason, []).append(name)
        return tuple(f"{named(group)}: {reason}" for reason, group in names.items())


def shortened(items: list[str], separator: str = ", ") -> str:
    """The first few of many, without what a terminal would obey."""
    more = [f"and {len(items) - _NAMED:,} more"] if len(items) > _NAMED else []
    return separator.join([*(ascii(item[:160])[1:-1] for item in items[:_NAMED]), *more])


def named(names: list[str]) -> str:
    """How many arrays, and the first few names."""
    return f"{len(names):,} array{'s' if len(names) > 1 else ''} ({shortened(names)})"
