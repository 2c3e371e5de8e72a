"""Do splits share patients, studies, series or source documents; is a patient of two classes?"""

import collections
import re
from collections.abc import Callable, Sequence

from jaxcovid.audits.check import FAILED, NOT_TOLD, PASSED, WARNING, Check
from jaxcovid.audits.items import Item
from jaxcovid.data.datasets import Dataset

# bioRxiv and medRxiv name a preprint by day and number, as in 2020.02.10.20021584; files cut out of
# one are named after it.
_PREPRINT = re.compile(r"(?<!\d)(20\d\d\.\d\d\.\d\d\.\d{6,8})(?!\d)")
_STUDY = re.compile(r"(patient\d+/study\d+)/")  # in the paths of CheXpert


def check_splits(dataset: Dataset, items: Sequence[Item]) -> list[Check]:
    """Makes all checks of the splits."""
    return [
        _disjoint("patients", items, lambda item: item.record["patient"]),
        _disjoint("studies", items, study_of),
        _disjoint("series", items, lambda item: item.record.get("series", "")),
        _disjoint("source documents", items, document_of),
        _classes_of_patients(dataset, items),
        _counts(dataset),
    ]


def document_of(item: Item) -> str:
    """What an image was published in: as the data set has it, or a preprint in the file's name."""
    if item.record.get("document"):
        return item.record["document"]
    match = _PREPRINT.search(item.record["id"])
    return f"10.1101/{match[1]}" if match else ""


def study_of(item: Item) -> str:
    """The study of an image, empty if it is not known."""
    match = _STUDY.search(item.record["id"])
    return match[1] if match else ""


def _disjoint(name: str, items: Sequence[Item], key: Callable[[Item], str]) -> Check:
    groups: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for item in items:
        if value := key(item):
            groups[value][item.split] += 1
    title = f"{name} in one split each"
    if not groups:
        return Check(title, NOT_TOLD, f"the data set names no {name}")
    if name == "patients" and all(item.record["patient"] == item.record["id"] for item in items):
        return Check(title, WARNING, "no patient ids are known: every image counts as a patient")
    rows = [
        {"which": value, **counts, "images": counts.total()}
        for value, counts in sorted(groups.items())
        if len(counts) > 1
    ]
    known = sum(counts.total() for counts in groups.values())
    if not rows:
        return Check(title, PASSED, f"{len(groups)} {name} of {known} images, none in two splits")
    images = sum(row["images"] for row in rows)
    return Check(
        title, FAILED, f"{len(rows)} of {len(groups)} {name} ({images} images) cross splits", rows
    )


def _classes_of_patients(dataset: Dataset, items: Sequence[Item]) -> Check:
    title = "patients of one class each"
    if not dataset.class_names:
        return Check(title, NOT_TOLD, "the data set has findings, no classes")
    labels: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for item in items:
        labels[item.record["patient"]][dataset.class_names[item.record["label"]]] += 1
    rows = [
        {"patient": patient, **counts}
        for patient, counts in sorted(labels.items())
        if len(counts) > 1
    ]
    if not rows:
        return Check(title, PASSED, f"none of {len(labels)} patients has images of two classes")
    summary = f"{len(rows)} of {len(labels)} patients have images of two classes"
    return Check(title, WARNING, summary, rows)


def _counts(dataset: Dataset) -> Check:
    title = "as many images as published"
    total = sum(dataset.split_sizes.values())
    if not dataset.published_images:
        return Check(title, NOT_TOLD, f"{total} images; no published count is known")
    summary = f"{total} images of the published {dataset.published_images}"
    return Check(title, PASSED if total == dataset.published_images else WARNING, summary)
