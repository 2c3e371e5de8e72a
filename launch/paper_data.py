"""Tables I and II of the paper, and its Figs. 1, 2 and 7: the data at hand beside CT-COV19."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxcovid.data.datasets import Dataset, find_version
from jaxcovid.data.opening import open_dataset
from jaxcovid.report.data_card import Survey, survey
from launch.paper_methods import DATA, Method

Surveys = Mapping[str, tuple[Dataset, Survey]]  # by name

POSITIVE = "COVID-19"
TITLE = "Tables I and II, the data"
NOTE = (
    "Here patients are those that the files tell apart: SARS-CoV-2-CT has no ids, and blocks of "
    "neighbouring numbers stand for them."
)
_SETS = (
    "ct_cov19",
    "covid_ct",
    "sars_cov_2_ct",
    "chestxray14",
    "chest_xray_pneumonia",
    "covid_chestxray",
)
# Images and patients with COVID-19.
_PUBLISHED = {
    "Ref. [19]": ("20", "not stated"),
    "Ref. [24]": ("100", "60"),
    "Ref. [23]": ("15,000", "95"),
    "COVID-CT [46]": ("349", "216"),
    "SIRM [37]": ("100", "60"),
    "Ref. [19], another": ("35", "144"),
    "CT-COV19": ("8500", "500"),
}
_CT_COV19 = {
    "train": {POSITIVE: 6120, "other pneumonia": 543, "normal": 3060},
    "validation": {POSITIVE: 680, "other pneumonia": 60, "normal": 340},
    "test": {POSITIVE: 1700, "other pneumonia": 151, "normal": 851},
}


def surveys(root: Path, methods: Sequence[Method]) -> Surveys:
    """The data sets of methods that are prepared in ROOT, and what their records say."""
    last = [training for method in methods for training in method.trainings]
    used = {method.tested_on for method in methods}
    used |= {each.dataset for training in last for each in training.with_earlier()}
    there = [name for name in _SETS if name in used and find_version(name, root / DATA)]
    datasets = [open_dataset(name, root / DATA) for name in there]
    return {dataset.name: (dataset, survey(dataset)) for dataset in datasets}


def tables(found: Surveys) -> list[list[dict[str, str]]]:
    """Table I, images and patients with COVID-19, and Table II, images by split and class."""
    first = [
        {"data set": f"{name}, published", "COVID-19 images": images, "COVID-19 patients": patients}
        for name, (images, patients) in _PUBLISHED.items()
    ]
    sizes = {split: sum(by_class.values()) for split, by_class in _CT_COV19.items()}
    second = _splits("CT-COV19, published", sizes, _CT_COV19)
    for name, (dataset, said) in found.items():
        counts = dataset.class_counts
        images = sum(by_class.get(POSITIVE, 0) for by_class in counts.values())
        if images:
            patients = f"{len(said.patients[POSITIVE])}"
            first.append(
                {
                    "data set": f"{name}, here",
                    "COVID-19 images": f"{images}",
                    "COVID-19 patients": patients,
                }
            )
        second += _splits(f"{name}, here", dataset.split_sizes, counts)
    return [first, second]


def pictures(found: Surveys) -> dict[str, bytes]:
    """Figs. 1, 2 and 7: images of each class, and ages, where they are known."""
    drawn = {}
    for name, (_, said) in found.items():
        captions = {"sheet": f"a row each of {', '.join(said.tiles)}", "ages": "ages"}
        for kind, picture in said.pictures().items():
            drawn[f"{TITLE}: {name}, {captions[kind]}"] = picture
    return drawn


def _splits(
    name: str, sizes: Mapping[str, int], counts: Mapping[str, Mapping[str, int]]
) -> list[dict[str, str]]:
    """A row for each split; an image may have several findings, or none."""
    return [
        {
            "data set": name,
            "split": split,
            "images": f"{sizes[split]}",
            "by class or finding": ", ".join(f"{group} {n}" for group, n in by_class.items()),
        }
        for split, by_class in counts.items()
    ]
