"""Copies between the sources of a training, found before it so that nothing held out is learned.

An image of the training split of one source may be in the validation or test split of another. It
is left out of the training, with all images of its patient.
"""

import collections
import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from absl import logging

from jaxcovid.audits.duplicates import find_pairs
from jaxcovid.audits.items import read_items
from jaxcovid.data.builders.tables import listed
from jaxcovid.data.datasets import Dataset
from jaxcovid.data.joined import JoinedDataset
from jaxcovid.runtime.files import read_json, write_atomically

FILE = "copies-{search}.json"  # beside the joined data set
# near: pictures that look the same, read from all images; exact: files of equal bytes, by their
# hashes, for data sets that are too large for the other, whose time grows with their square.
SEARCHES = ("near", "exact")


@dataclass(frozen=True)
class Place:
    """Where a record is: its split, its position in that split of all sources, its id and label."""

    split: str
    position: int
    id: str
    label: str


@dataclass(frozen=True)
class Copy:
    """An image of a training split, its copy in another source, and how alike they are."""

    trained: Place
    other: Place
    kind: str


def leave_out_copies(dataset: Dataset, *, search: str) -> Dataset:
    """A data set whose training split has no copies of what other sources hold out.

    Logs what is left out, and copies within the training that have two labels, which stay; all are
    in a file beside the data.

    Args:
      dataset: one that is not joined stays as it is.
      search: one of `SEARCHES`.

    Raises:
      ValueError: there is no such search, or a source has nothing left to train on.
      OSError: a data set cannot be read.
    """
    if search not in SEARCHES:
        raise ValueError(f"mixture.copies is {search!r}; use one of {', '.join(SEARCHES)}")
    if not isinstance(dataset, JoinedDataset):
        return dataset
    copies = _kept_copies(dataset, search)
    disagreeing = [
        c for c in copies if c.other.split == "train" and c.trained.label != c.other.label
    ]
    if disagreeing:
        logging.warning(
            "%d pictures are trained on with two labels: %s", len(disagreeing), _listed(disagreeing)
        )
    held_out = [copy for copy in copies if copy.other.split != "train"]
    if not held_out:
        return dataset
    positions = _with_patients(dataset, sorted({copy.trained.position for copy in held_out}))
    logging.warning(
        "%d images are left out of the training, copies of what another source holds out and other "
        "images of these patients: %s",
        len(positions),
        _listed(held_out),
    )
    return dataset.without(positions)


def _kept_copies(dataset: JoinedDataset, search: str) -> list[Copy]:
    """The copies in the file beside the data set, which is written unless it is there."""
    path = dataset.directory / FILE.format(search=search)
    if path.exists():
        kept = read_json(path)
        if kept.get("digest") == dataset.digest:
            return [
                Copy(Place(**each["trained"]), Place(**each["other"]), each["kind"])
                for each in kept["copies"]
            ]
    logging.info("Looking for copies between %s", " and ".join(m.name for m in dataset.members))
    copies = find_copies(dataset, search=search)
    content: dict[str, Any] = {"digest": dataset.digest, "search": search}
    content["copies"] = [dataclasses.asdict(copy) for copy in copies]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    except OSError as error:
        logging.warning("%s cannot be written (%s): the next run searches anew", path, error)
    return copies


def find_copies(dataset: JoinedDataset, *, search: str) -> list[Copy]:
    """The copies of images of the training split in any split of another source.

    Args:
      dataset: nothing is left out of it.
      search: one of `SEARCHES`.
    """
    places = [(split, i) for split, size in dataset.split_sizes.items() for i in range(size)]
    sources = {split: dataset.source(split) for split in dataset.split_sizes}
    members = [sources[split].member_of(i) for split, i in places]
    pairs = _near_pairs(dataset, members) if search == "near" else _exact_pairs(dataset, members)

    def place(number: int) -> Place:
        split, position = places[number]
        record = sources[split][position]
        label = dataset.class_names[record["label"]] if dataset.class_names else ""
        return Place(split, position, record["id"], label)

    return [
        Copy(place(one), place(other), kind)
        for first, second, kind in pairs
        for one, other in ((first, second), (second, first))
        if places[one][0] == "train" and (places[other][0] != "train" or one < other)
    ]


def _near_pairs(dataset: JoinedDataset, members: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Numbers of records of two members that are pictures of one kind, see `duplicates`."""
    for pair in find_pairs(read_items(dataset), groups=members):
        yield pair.first, pair.second, pair.kind


def _exact_pairs(dataset: JoinedDataset, members: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Numbers of records of two members whose encoded images are equal."""
    identities = dataset.identities()
    hashes = np.concatenate([identities[split].images for split in dataset.split_sizes])
    numbers: dict[int, list[int]] = collections.defaultdict(list)
    for number, value in enumerate(hashes.tolist()):
        for first in numbers[value]:
            if members[first] != members[number]:
                yield first, number, "same file"
        numbers[value].append(number)


def _with_patients(dataset: JoinedDataset, positions: Sequence[int]) -> list[int]:
    """Positions in the training split, and those of all other images of their patients."""
    patients = dataset.identities()["train"].patients  # 0 where the patient is not known
    theirs = np.unique(patients[list(positions)])
    also = np.flatnonzero(np.isin(patients, theirs[theirs > 0]))
    return np.union1d(positions, also).astype(int).tolist()


def _listed(copies: Sequence[Copy]) -> str:
    return listed(
        [
            f"{copy.trained.id} ({copy.trained.label}) is {copy.other.split} {copy.other.id} "
            f"({copy.other.label}): {copy.kind}"
            for copy in copies
        ]
    )
