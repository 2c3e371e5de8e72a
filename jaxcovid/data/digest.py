"""The digest of a prepared data set: what its records hold, as one hash, with counts beside it."""

import collections
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from jaxcovid.data import identity
from jaxcovid.data.datasets import DIGEST_FILE, Record, Source
from jaxcovid.data.hounsfield import LUNG_WINDOW
from jaxcovid.data.structures import FEATURES
from jaxcovid.runtime.files import write_atomically


def write_digest(
    directory: epath.PathLike,
    *,
    modality: str = "",
    window: tuple[float, float] = LUNG_WINDOW,
    hu_offset: float | None = None,
    prepared_from: Mapping[str, Any] | None = None,
    published: int = 0,
    grouped: bool = True,
) -> None:
    """Reads a built data set through and writes its digest, hashes and counts beside it.

    Args:
        directory: The directory of the version, with the `dataset_info.json` of TFDS.
        modality: Of its images: "CT", "X-ray", or empty.
        window: Through which CT was seen; see `Dataset`.
        hu_offset: See `Dataset`.
        prepared_from: See `Dataset`.
        published: Number of images of the whole data set, 0 if unknown.
        grouped: False for splits that share patients; how many is then said and not refused.

    Raises:
        ValueError: If two records have one id, or a patient of `grouped` is in two splits.
    """
    import tensorflow_datasets as tfds

    directory = epath.Path(directory)
    info = tfds.builder_from_directory(directory).info
    has_findings = "findings" in info.features
    names = sorted(info.features["findings"]) if has_findings else info.features["label"].names
    full_name = info.full_name.removesuffix(f"/{info.version}")
    sources = {split: Source(directory, split) for split in info.splits}
    identities, values, patients = _read_through(sources, names, full_name)
    crossing = crossing_patients(patients)
    if grouped:
        check_patients(patients)
    elif crossing:
        logging.warning("%d patients are in more than one split", len(crossing))
    stored = {
        "digest": compute_digest(sources),
        "modality": modality,
        "window": window,
        "hu_offset": hu_offset,
        "prepared_from": dict(prepared_from or {}),
        "published_images": published,
        "class_counts": {
            split: {name: counter["1"] for name, counter in by_name.items()}
            for split, by_name in values.items()
        },
        "finding_counts": values if has_findings else {},
        "patient_counts": {split: len(members) for split, members in patients.items()},
        "crossing_patients": len(crossing),
    }
    identity.save(directory / identity.FILE, identities)
    content = json.dumps(stored, indent=2) + "\n"
    write_atomically(directory / DIGEST_FILE, content.encode())


def _read_through(
    sources: Mapping[str, Source], names: Sequence[str], data_set: str
) -> tuple[
    dict[str, identity.Identities],
    dict[str, dict[str, collections.Counter[str]]],
    dict[str, set[str]],
]:
    """Reads every record once, for its hashes and for all counts.

    Args:
        sources: The records of each split.
        names: Of classes or findings.
        data_set: Name with its config.

    Returns:
        For each split the hashes, the counts by name and value (see `_counted`), and the patients.
    """
    patients: dict[str, set[str]] = {split: set() for split in sources}
    values = {split: {name: collections.Counter() for name in names} for split in sources}
    identities = {
        split: identity.identities_of(
            _counted(source, names, values[split], patients[split]), data_set
        )
        for split, source in sources.items()
    }
    return identities, values, patients


def _counted(
    source: Iterable[Record],
    names: Sequence[str],
    values: Mapping[str, collections.Counter[str]],
    patients: set[str],
) -> Iterator[Record]:
    """Passes records through, and counts them on the way.

    Args:
        source: The records of a split.
        names: Of its classes or findings.
        values: Gets how often each finding has each value ("1", "0", "-1", "-2"), and how many
            records are of each class as "1".
        patients: Gets the patients.
    """
    for record in source:
        if "findings" in record:
            for name, value in record["findings"].items():
                values[name][str(value)] += 1
        else:
            values[names[record["label"]]]["1"] += 1
        patients.add(record["patient"])
        yield record


def compute_digest(sources: Mapping[str, Sequence[Record]]) -> str:
    """Hashes what the records hold and which split each is in, whatever their order on disk.

    SHA-256 over all records of all splits in the order of their ids (code points). A record adds
    five fields: id (UTF-8), label (decimal digits; of findings all values in the order of their
    names, with commas), patient (UTF-8), split (UTF-8), encoded image (as it is); then for each
    mask that is known, lungs before lesion, two: the name of its feature and its PNG. A field adds
    its length in bytes as 8 bytes, little-endian, and then its bytes, so that no two lists of
    records run together to one stream.

    Args:
        sources: The records of each split.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: If two records have one id.
    """
    places = [
        (record["id"], split, index)
        for split, source in sources.items()
        for index, record in enumerate(source)
    ]
    counts = collections.Counter(place[0] for place in places)
    twice = sorted(identifier for identifier, count in counts.items() if count > 1)
    if twice:
        raise ValueError(f"{len(twice)} ids occur more than once: {', '.join(twice)}")
    sha = hashlib.sha256()
    for _, split, index in sorted(places):
        record = sources[split][index]
        findings = sorted(record.get("findings", {}).items())
        label = str(record["label"]) if "label" in record else ",".join(str(v) for _, v in findings)
        fields = [record["id"], label, record["patient"], split, record["image"]]
        for feature in FEATURES.values():
            if record.get(feature):
                fields += [feature, record[feature]]
        for field in fields:
            data = field.encode() if isinstance(field, str) else field
            sha.update(len(data).to_bytes(8, "little"))
            sha.update(data)
    return sha.hexdigest()


def check_patients(patients: Mapping[str, Iterable[str]]) -> None:
    """Checks that no patient is in two splits.

    Args:
        patients: The patients of each split.

    Raises:
        ValueError: With every patient that does and the splits.
    """
    crossing = crossing_patients(patients)
    if crossing:
        raise ValueError(
            f"{len(crossing)} patients are in more than one split; give each patient one split: "
            + "; ".join(f"{patient} ({', '.join(splits)})" for patient, splits in crossing.items())
        )


def crossing_patients(patients: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """The splits of each patient that is in more than one, from the patients of each split."""
    splits = collections.defaultdict(set)
    for split, members in patients.items():
        for patient in members:
            splits[patient].add(split)
    crossing = {patient: names for patient, names in splits.items() if len(names) > 1}
    return {patient: sorted(names) for patient, names in sorted(crossing.items())}
