"""CT-COV19: whole CT series of COVID-19, other pneumonia and healthy lungs, the paper's own.

Source: the public repository m2dgithub/CT-COV19 (Dialameh et al., arXiv:2012.14204). It holds fewer
images than the paper's Table II counts, and its names carry series only for COVID-19.
"""

import collections
import pathlib
import re

import tensorflow_datasets as tfds
from absl import logging

from jaxcovid.data import image_files
from jaxcovid.data.builders.base import ImageBuilder
from jaxcovid.data.builders.splits import split_by_patient
from jaxcovid.data.builders.tables import Row, listed, source_folder

LAYOUT = """\
  {Train,Val,Test}/COV/CASE/*              (12/FILE0001.jpg, malek_5/pos_3.png)
  {Train,Val,Test}/Normal/CASE/*           (1/neg_7.png)
  {Train,Val,Test}/OtherPneumonia/CASE/*   (pneu_1/pneu_9.png; in Val without CASE)"""

_SPLITS = {"Train": "train", "Val": "validation", "Test": "test"}
_CLASSES = {"COV": "COVID-19", "OtherPneumonia": "other pneumonia", "Normal": "normal"}
_SUFFIXES = {".jpg", ".jpeg", ".png"}
# Slices of healthy lungs and of other pneumonia are numbered through, without a mark where one
# series ends. Neighbours are kept together by so many; a block is longer than most series.
_BLOCK = 60

# The paper's Table II.
PAPER_COUNTS = {
    ("train", "COVID-19"): 6120,
    ("train", "other pneumonia"): 543,
    ("train", "normal"): 3060,
    ("validation", "COVID-19"): 680,
    ("validation", "other pneumonia"): 60,
    ("validation", "normal"): 340,
    ("test", "COVID-19"): 1700,
    ("test", "other pneumonia"): 151,
    ("test", "normal"): 851,
}

_DESCRIPTION = """\
CT slices of COVID-19, other pneumonia and healthy lungs. The published validation split takes its
slices from between those of the training and test splits, so it leaks. The config grouped splits
anew, series by series, and where the names carry no series, by blocks of neighbours.
"""

_CITATION = """\
@article{dialameh2020screening,
  title={Screening COVID-19 Based on CT/CXR Images & Building a Publicly Available CT-scan Dataset
    of COVID-19},
  author={Dialameh, Maryam and Hamzeh, Ali and Rahmani, Hossein and Radmard, Amir Reza and
    Dialameh, Safoura},
  journal={arXiv preprint arXiv:2012.14204},
  year={2020}
}
"""


class CtCov19(ImageBuilder):
    """Builder of CT-COV19: configs `grouped` and `published`."""

    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(
            name="grouped", description="Split 70/10/20, slices of a series kept together."
        ),
        tfds.core.BuilderConfig(
            name="published", description="The published splits, whose validation leaks."
        ),
    )
    DEFAULT_BUILDER_CONFIG_NAME = "grouped"
    description = _DESCRIPTION
    homepage = "https://github.com/m2dgithub/CT-COV19"
    citation = _CITATION
    modality = "CT"
    published = 7_610
    class_names = tuple(_CLASSES.values())

    def rows(self) -> dict[str, list[Row]]:
        """Lists the slices of each split."""
        rows = read_rows(self.source)
        if self.builder_config.name == "grouped":
            return split_by_patient(rows, test_tenths=2)
        return {split: [row for row in rows if row["split"] == split] for split in _SPLITS.values()}


def read_rows(source: str | None) -> list[Row]:
    """Lists the slices, and warns where their number differs from the paper's.

    Args:
        source: Folder of a checkout.

    Returns:
        For each slice `path`, `id` (its path in the folder), `patient` (its series or block),
        `label` and `split` (as published).

    Raises:
        FileNotFoundError: If a folder of the layout is missing.
        ValueError: If there is no source, or a slice without a series has no number in its name.
    """
    folders = [f"{split}/{group}" for split in _SPLITS for group in _CLASSES]
    root = source_folder(
        source, name="ct_cov19", what="checkout of CT-COV19", layout=LAYOUT, needed=folders
    )
    rows, nameless = [], []
    left_out: collections.Counter[str] = collections.Counter()
    for folder in map(root.joinpath, folders):
        group, split = folder.name, _SPLITS[folder.parent.name]
        files = image_files.find_files(folder, left_out)
        slices = [path for path in files if path.suffix.lower() in _SUFFIXES]
        left_out["files that are no images"] += len(files) - len(slices)
        for path in slices:
            name = path.relative_to(root).as_posix()
            patient = _series(group, path.relative_to(folder))
            if patient is None:
                nameless.append(name)
            row = {"path": path, "id": name, "patient": patient, "split": split}
            rows.append({**row, "label": _CLASSES[group]})
        expected = PAPER_COUNTS[split, _CLASSES[group]]
        if len(slices) != expected:
            logging.warning(
                "%s %s: %d images; the paper counts %d",
                split,
                _CLASSES[group],
                len(slices),
                expected,
            )
    if text := image_files.counts_text(left_out):
        logging.warning("Left out: %s", text)
    if nameless:
        raise ValueError(f"{len(nameless)} slices have no number in their name: {listed(nameless)}")
    return rows


def _series(group: str, path: pathlib.Path) -> str | None:
    """Which slices belong together: a case of COVID-19, else a block of neighbouring numbers."""
    if group == "COV":
        return f"COV/{path.parts[0]}"
    number = re.search(r"(\d+)$", path.stem)
    return f"{group}/block {int(number[1]) // _BLOCK}" if number else None
