"""Volumes in place of slices: evenly spaced slices of each are one image of many channels."""

import collections
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcovid.data.datasets import Record

_DIGITS = re.compile(r"(\d+)")


class VolumeSource(Sequence[Record]):
    """The volumes of a split, in the order of their first slices.

    The slices of a volume have the same `volume`; in data sets without it they are of one file or
    series, else of one patient. They lie in the order of `slice_index`, or of the numbers in their
    ids. A record is that of the middle slice, but its `id` is the volume's and `slices` has the
    records of the chosen ones; a volume of fewer slices repeats some.

    Args:
      source: the slices; all are read once.
      slices: of each volume.

    Raises:
      ValueError: slices of a volume have different labels, or records none.
    """

    def __init__(self, source: Sequence[Record], slices: int) -> None:
        self._source = source
        members: dict[str, list[tuple[Any, int]]] = collections.defaultdict(list)
        labels: dict[str, int] = {}
        for position in range(len(source)):
            record = source[position]
            if "label" not in record:
                raise ValueError("a network for volumes needs classes; this data set has findings")
            name = _volume_of(record)
            order = (record.get("slice_index", 0), _natural(record["id"]))
            members[name].append((order, position))
            if labels.setdefault(name, record["label"]) != record["label"]:
                raise ValueError(
                    f"volume {name} has slices of two classes, {record['id']} among them; volumes "
                    "need one class each, networks with volume.slices=0 classify slices"
                )
        self._names = list(members)
        self._positions = []
        for own in members.values():
            places = np.linspace(0, len(own) - 1, slices).round().astype(int)
            self._positions.append([sorted(own)[place][1] for place in places])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        slices = [self._source[position] for position in self._positions[index]]
        middle = slices[len(slices) // 2]
        return {**middle, "id": self._names[index], "slices": slices}


def _volume_of(record: Record) -> str:
    """The name of the volume that a slice is of."""
    if record.get("volume"):
        return record["volume"]
    file, mark, _ = record["id"].rpartition("#")  # of a file with several images
    return file if mark else " ".join(filter(None, (record["patient"], record.get("series"))))


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts names by the numbers in them: slice 10 after slice 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(name)]


def check_single_images(slices: int) -> None:
    """Refuses single images for a network that classifies volumes of so many slices.

    Raises:
      ValueError: it does.
    """
    if slices:
        raise ValueError(
            f"this network classifies volumes, by {slices} slices of each, and no single images; "
            "evaluate it on a prepared data set"
        )


def by_volumes(source: Sequence[Record], slices: int) -> Sequence[Record]:
    """The records of a split, or if `slices` is not 0 its volumes."""
    return VolumeSource(source, slices) if slices else source
