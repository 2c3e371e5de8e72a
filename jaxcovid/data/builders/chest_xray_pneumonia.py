"""Chest X-rays of children with and without pneumonia.

Source: the Kaggle data set paultimothymooney/chest-xray-pneumonia (Kermany et al., Cell 172, 2018,
doi 10.1016/j.cell.2018.02.010).
"""

import re

import tensorflow_datasets as tfds
from absl import logging

from jaxcovid.data.builders.base import ImageBuilder
from jaxcovid.data.builders.splits import split_by_patient
from jaxcovid.data.builders.tables import Row, listed, source_folder

LAYOUT = """\
  {train,val,test}/NORMAL/*.jpeg      (IM-0001-0001.jpeg, NORMAL2-IM-0007-0001.jpeg)
  {train,val,test}/PNEUMONIA/*.jpeg   (person1_bacteria_2.jpeg, person1_virus_6.jpeg)"""

_CLASSES = {"PNEUMONIA": "pneumonia", "NORMAL": "normal"}
_PATIENT = re.compile(r"(person\d+|(?:NORMAL2-)?IM-\d+)[_-]")

_DESCRIPTION = """\
Frontal chest X-rays of children of one to five years from Guangzhou: another population than that
of adults with COVID-19. The published validation split has 16 films, so it is joined to the
training split, and a tenth of both becomes validation, patient by patient.
"""

_CITATION = """\
@article{kermany2018identifying,
  title={Identifying Medical Diagnoses and Treatable Diseases by Image-Based Deep Learning},
  author={Kermany, Daniel S and Goldbaum, Michael and Cai, Wenjia and others},
  journal={Cell},
  volume={172},
  number={5},
  pages={1122--1131},
  year={2018}
}
"""


class ChestXrayPneumonia(ImageBuilder):
    """Builder of chest-xray-pneumonia: configs `grouped` and `published`."""

    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(
            name="grouped", description="The published test split, if it shares no patient."
        ),
        tfds.core.BuilderConfig(
            name="published", description="The published test split, whoever its patients are."
        ),
    )
    DEFAULT_BUILDER_CONFIG_NAME = "grouped"
    description = _DESCRIPTION
    homepage = "https://www.kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia"
    citation = _CITATION
    modality = "X-ray"
    published = 5_856
    class_names = tuple(_CLASSES.values())

    def rows(self) -> dict[str, list[Row]]:
        """See `read_rows`; validation is carved from what is not test."""
        rows = read_rows(self.source)
        test = [row for row in rows if row["folder"] == "test"]
        rest = split_by_patient([row for row in rows if row["folder"] != "test"], test_tenths=0)
        return {"train": rest["train"], "validation": rest["validation"], "test": test}


def read_rows(source: str | None) -> list[Row]:
    """Lists the films.

    Args:
        source: The folder `chest_xray`.

    Returns:
        For each film `path`, `id` (its path in the folder), `patient`, `label` and `folder` (train,
        val or test).

    Raises:
        FileNotFoundError: If a folder of the layout is missing.
        ValueError: If there is no source, a folder is empty or a film's name has no patient in it.
    """
    folders = [f"{split}/{group}" for split in ("train", "val", "test") for group in _CLASSES]
    root = source_folder(
        source,
        name="chest_xray_pneumonia",
        what="folder chest_xray",
        layout=LAYOUT,
        needed=folders,
    )
    rows, skipped, nameless = [], [], []
    for folder in map(root.joinpath, folders):
        for path in sorted(folder.iterdir()):
            name = path.relative_to(root).as_posix()
            if path.name.startswith(".") or path.suffix.lower() not in (".jpeg", ".jpg", ".png"):
                skipped.append(name)  # the archive has .DS_Store and its like
            elif match := _PATIENT.match(path.name):
                label, split = _CLASSES[folder.name], folder.parent.name
                row = {"path": path, "id": name, "label": label, "folder": split}
                rows.append({**row, "patient": match[1]})
            else:
                nameless.append(name)
    if nameless:
        raise ValueError(
            f"{len(nameless)} films have no patient in their name (person1_..., IM-0001-..., "
            f"NORMAL2-IM-0007-...): {listed(nameless)}"
        )
    if skipped:
        logging.warning("%d files that are no films are left out: %s", len(skipped), skipped[:10])
    return rows
