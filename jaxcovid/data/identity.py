"""Which images and patients a split holds, as hashes: to see whether a test was trained on.

A prepared data set has the hashes of its splits beside it; a run keeps those of the splits that it
was trained and validated on. So a test is compared with a training without reading an image, also
where the data set was prepared anew since, under another name or with other splits.
"""

import contextlib
import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcovid.runtime.files import write_atomically

FILE = "identities.npz"  # of a prepared data set
TRAINED_ON_FILE = "trained_on.npz"  # of a workdir: the splits `train` and `validation`
INIT_FOLDER = "init"  # of a workdir: such files of the trainings that its first weights are from
_FIELDS = ("images", "ids", "patients")
_MAX_BYTES = 2**30  # unpacked


@dataclasses.dataclass(frozen=True)
class Identities:
    """Hashes of the records of a split, one row each.

    Attributes:
      images: hashes of the encoded bytes, uint64 [n].
      ids: hashes of the data set and the id in it, uint64 [n].
      patients: hashes of the patient, uint64 [n]; 0 if it is not known. Patients of one number in
        two data sets are two people, unless both are a user's own and the number is DICOM's.
    """

    images: np.ndarray
    ids: np.ndarray
    patients: np.ndarray

    def without(self, positions: Sequence[int]) -> "Identities":
        """Those of all records but some."""
        return Identities(*(np.delete(column, positions) for column in dataclasses.astuple(self)))


@dataclasses.dataclass(frozen=True)
class Overlap:
    """How much of a split was trained on.

    Attributes:
      images: that were trained on.
      patients: of whom other or the same images were.
      images_of_patients: images of those patients, `images` among them.
      total: images of the split.
    """

    images: int
    patients: int
    images_of_patients: int
    total: int

    def __bool__(self) -> bool:
        return bool(self.images or self.patients)


def _hash(*parts: bytes) -> int:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(len(part).to_bytes(8, "little") + part)
    return int.from_bytes(sha.digest()[:8], "little")


def scope_of(name: str) -> str:
    """What the ids of a data set are unique in: data sets of one scope hold the same images.

    The configs of a published data set do; two folders are two data sets.
    """
    base = name.partition("/")[0]
    return name if base == "folder" else base


def join(parts: Sequence[Identities]) -> Identities:
    """Those of several data sets, one after another."""
    columns = zip(*map(dataclasses.astuple, parts), strict=True)
    return Identities(*map(np.concatenate, columns))


def identities_of(records: Iterable[Mapping[str, Any]], name: str) -> Identities:
    """Hashes the records of a split.

    Args:
      records: see `datasets.Source`.
      name: of the data set, with its config.
    """
    base, scope = name.partition("/")[0], scope_of(name).encode()
    images, ids, patients = [], [], []
    for record in records:
        known = record["patient"] != record["id"]
        of_patient = b"folder" if base == "folder" and record.get("series") else scope
        images.append(_hash(record["image"]))
        ids.append(_hash(scope, record["id"].encode()))
        patients.append(_hash(of_patient, record["patient"].encode()) if known else 0)
    return Identities(*(np.array(column, np.uint64) for column in (images, ids, patients)))


def overlap(tested: Identities, trained: Iterable[Identities]) -> Overlap:
    """Counts the images and patients of a split that were trained on."""
    seen = np.zeros(tested.images.shape, bool)
    of_seen_patients = np.zeros_like(seen)
    for used in trained:
        seen |= np.isin(tested.images, used.images) | np.isin(tested.ids, used.ids)
        of_seen_patients |= np.isin(tested.patients, used.patients[used.patients > 0])
    return Overlap(
        images=int(seen.sum()),
        patients=len(np.unique(tested.patients[of_seen_patients])),
        images_of_patients=int((seen | of_seen_patients).sum()),
        total=seen.size,
    )


def save(path: Path, splits: Mapping[str, Identities]) -> None:
    """Writes the hashes of several splits into one file.

    Raises:
      OSError: it cannot be written.
    """
    arrays = {
        f"{split}.{field}": getattr(identities, field)
        for split, identities in splits.items()
        for field in _FIELDS
    }
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomically(path, content.getvalue())


def load(path: Path) -> dict[str, Identities]:
    """Loads the hashes that `save` wrote, by split.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged.
    """
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            if sum(member.file_size for member in packed.infolist()) > _MAX_BYTES:
                raise ValueError(f"at most {_MAX_BYTES:,} bytes are accepted")
        with contextlib.closing(np.load(io.BytesIO(content), allow_pickle=False)) as arrays:
            names = dict.fromkeys(key.rpartition(".")[0] for key in arrays.files)
            splits = {
                name: Identities(*(arrays[f"{name}.{field}"] for field in _FIELDS))
                for name in names
            }
        for identities in splits.values():
            columns = dataclasses.astuple(identities)
            if any(c.dtype != np.uint64 or c.shape != (columns[0].size,) for c in columns):
                raise ValueError("its arrays do not fit together")
    except Exception as error:  # a damaged archive raises whatever its parsers meet
        raise ValueError(f"{path} is damaged: {error}") from error
    return splits
