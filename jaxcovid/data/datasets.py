"""Prepared data sets: find one on disk, and read its records in any order.

A data set is prepared once (`jaxcovid.prepare`) as array records under
`DATA_DIR/NAME[/CONFIG]/VERSION/` and read from there without TensorFlow. `digest.json` in that
directory is written last, so a directory without it was not prepared to its end.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxcovid.data import identity
from jaxcovid.data.image_error import ImageError
from jaxcovid.data.structures import FEATURES
from jaxcovid.runtime.files import expand_home, home

DIGEST_FILE = "digest.json"
SEPARATOR = "+"  # between the names of data sets that are opened as one
OLD_NAMES = {"mask": FEATURES["lesion"]}  # of features in data sets that were prepared before

Record = Mapping[str, Any]  # see `Source`


class Source(Sequence[Record]):
    """Random access to the records of one split; pickles to its place, so workers can reopen it.

    A record is a dictionary: `image` (bytes, as encoded in the file), `id`, `patient` (str),
    `label` (int, an index into the class names) or `findings` (by name: 1 yes, 0 no, -1 uncertain,
    -2 not mentioned), and what else the data set holds, in the same way: images and masks as bytes
    (none of a mask that there is not), texts as str, numbers as Python numbers.
    """

    def __init__(self, directory: epath.PathLike, split: str) -> None:
        import tensorflow_datasets as tfds

        self._directory = os.fspath(directory)
        self._split = split
        builder = tfds.builder_from_directory(self._directory)
        images = [k for k, v in builder.info.features.items() if isinstance(v, tfds.features.Image)]
        self._bytes = {*images, *FEATURES.values()}
        self._records = builder.as_data_source(
            split, decoders={name: tfds.decode.SkipDecoding() for name in images}
        )

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return Source, (self._directory, self._split)

    def __repr__(self) -> str:
        return f"Source({self._directory!r}, {self._split!r})"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)} in split {self._split!r}")
        try:
            record = self._records[index]
        except Exception as error:  # the reader of each format raises its own kind
            raise ImageError(
                f"record {index} of {self!r} cannot be read ({error}); prepare the data set anew"
            ) from error
        return {
            OLD_NAMES.get(name, name): value if name in self._bytes else _plain(value)
            for name, value in record.items()
        }


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A prepared data set.

    Attributes:
        name: Name with its config, as in "covid_ct/gray320".
        directory: Where its files lie (the directory of the version).
        class_names: Class names; a record's label is an index into them. empty if it has findings.
        finding_names: Findings that each record has instead of one label, sorted.
        masks: Of `structures.STRUCTURES`, those that its records may have masks of.
        digest: SHA-256 over all records, 64 hexadecimal digits; see `digest.compute_digest`.
        citation: BibTeX, empty if there is none.
        description: What it holds and where it comes from.
        split_sizes: Number of images in each split.
        modality: "CT" or "X-ray"; empty if it is not known.
        window: Centre and width in Hounsfield units through which its CT was seen.
        hu_offset: What was added to the values of its 16-bit PNG and TIFF files to make them
            Hounsfield units; None if they were stretched over their own range.
        prepared_from: Options that it was prepared with, by name.
        class_counts: Number of images of each class, or with each finding, in each split.
        finding_counts: Number of images by split, finding and value ("1", "0", "-1", "-2"); see
            `Source`.
        published_images: Number of images of the whole data set as it is published, 0 if unknown.
        patient_counts: Number of patients in each split.
        crossing_patients: Number of patients in more than one split.
    """

    name: str
    directory: epath.Path
    class_names: tuple[str, ...]
    finding_names: tuple[str, ...]
    masks: tuple[str, ...]
    digest: str
    citation: str
    description: str
    split_sizes: dict[str, int]
    modality: str
    window: tuple[float, float]
    hu_offset: float | None
    prepared_from: dict[str, Any]
    class_counts: dict[str, dict[str, int]]
    finding_counts: dict[str, dict[str, dict[str, int]]]
    published_images: int
    patient_counts: dict[str, int]
    crossing_patients: int

    def source(self, split: str) -> Source:
        """Opens one split.

        Raises:
            ValueError: If the data set has no such split.
        """
        self._check_split(split)
        return Source(self.directory, split)

    def identities(self) -> dict[str, identity.Identities]:
        """Hashes of the images and patients of each split.

        Raises:
            ValueError: If their file is damaged.
            OSError: If it cannot be read.
        """
        return identity.load(self.directory / identity.FILE)

    def _check_split(self, split: str) -> None:
        if split not in self.split_sizes:
            raise ValueError(
                f"{self.name} has no split {split!r}; it has {', '.join(self.split_sizes)}"
            )


def default_data_dir() -> epath.Path:
    """Returns the environment's TFDS_DATA_DIR, or ~/tensorflow_datasets without it.

    Raises:
        ValueError: If there is neither.
    """
    if folder := os.environ.get("TFDS_DATA_DIR"):
        return epath.Path(expand_home(folder))
    try:
        return epath.Path(home() / "tensorflow_datasets")
    except ValueError as error:
        raise ValueError(f"{error}, or say where data sets are kept: --data_dir=DIR") from error


def find_version(name: str, data_dir: epath.PathLike) -> epath.Path | None:
    """Returns the directory of the highest version prepared to its end, None if there is none."""
    parent = epath.Path(data_dir) / name
    default_config = parent / ".config" / "metadata.json"  # Written by TFDS.
    if default_config.exists():
        parent = parent / json.loads(default_config.read_text())["default_config_name"]
    finished = [path.parent for path in parent.glob(f"*.*.*/{DIGEST_FILE}")]
    finished = [path for path in finished if all(n.isdecimal() for n in path.name.split("."))]
    return max(finished, key=lambda path: [int(n) for n in path.name.split(".")], default=None)


def prepare_command(name: str, data_dir: epath.PathLike | None = None) -> str:
    """Returns the command that prepares a data set."""
    name, _, config = name.partition("/")
    if name == "folder":
        arguments = f"folder --name={config or 'NAME'} --source=DIR"
    elif name == "phantom":
        arguments = f"phantom/{config}" if config else "phantom"
    else:
        arguments = f"{name}/{config} --source=DIR" if config else f"{name} --source=DIR"
    where = f" --data_dir={os.fspath(data_dir)}" if data_dir else ""
    return f"python -m jaxcovid.prepare {arguments}{where}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
