"""Volumes in place of slices: evenly spaced slices of each are one image of many channels."""

import collections
from collections.abc import Sequence

import numpy as np

from jaxcovid.data.datasets import Record


class VolumeSource(Sequence[Record]):
    """The volumes of a split, in the order of their first slices.

    The slices of a volume have the same `volume`, or in data sets without it the same patient, and
    lie in the order of `slice_index`, or as they come. A record is that of the middle slice, but
    its `id` is the volume's and `slices` has the records of the chosen ones; a volume of fewer
    slices repeats some.

    Args:
      source: the slices; all are read once.
      slices: of each volume.

    Raises:
      ValueError: slices of a volume have different labels.
    """

    def __init__(self, source: Sequence[Record], slices: int) -> None:
        self._source = source
        members: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
        labels: dict[str, int] = {}
        for position in range(len(source)):
            record = source[position]
            name = record.get("volume") or record["patient"]
            members[name].append((record.get("slice_index", position), position))
            if labels.setdefault(name, record["label"]) != record["label"]:
                raise ValueError(
                    f"volume {name} has slices of two classes, {record['id']} among them, and "
                    "volume.slices needs one for each: use --config.volume.slices=0"
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
