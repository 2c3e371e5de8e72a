"""ChestX-ray14 of the NIH: chest X-rays with fourteen findings, the open stand-in for CheXpert.

Source: Wang et al., arXiv:1705.02315, the NIH Clinical Center's public release.
"""

import pathlib

import tensorflow_datasets as tfds

from jaxcovid.data.builders.base import FILM_FEATURES, ImageBuilder
from jaxcovid.data.builders.splits import split_by_patient
from jaxcovid.data.builders.tables import (
    Row,
    age_of,
    check_columns,
    file_in,
    find_table,
    listed,
    present,
    read_table,
    source_folder,
)

LAYOUT = """\
  Data_Entry_2017_v2020.csv (or Data_Entry_2017.csv)
  images/*.png
  train_val_list.txt, test_list.txt   (for the config official)"""

# The names of the table, and here: CheXpert's where it has the finding.
FINDINGS = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Effusion": "Pleural Effusion",
    "Emphysema": "Emphysema",
    "Fibrosis": "Fibrosis",
    "Hernia": "Hernia",
    "Infiltration": "Infiltration",
    "Mass": "Mass",
    "Nodule": "Nodule",
    "Pleural_Thickening": "Pleural Thickening",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
}
_NONE = "No Finding"
_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_COLUMNS = (
    "Image Index",
    "Finding Labels",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
)

_DESCRIPTION = """\
Frontal chest X-rays of the NIH Clinical Center, 1992 to 2015, with fourteen findings read from
their reports by rules.
"""

_CITATION = """\
@inproceedings{wang2017chestxray,
  title={ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on Weakly-Supervised
    Classification and Localization of Common Thorax Diseases},
  author={Wang, Xiaosong and Peng, Yifan and Lu, Le and Lu, Zhiyong and Bagheri, Mohammadhadi and
    Summers, Ronald M},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition},
  year={2017}
}
"""


class Chestxray14(ImageBuilder):
    """Builder of ChestX-ray14: configs `patient` and `official`."""

    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(
            name="patient", description="Patients split 70/10/20 into train, validation, test."
        ),
        tfds.core.BuilderConfig(
            name="official",
            description="The official test list; a tenth of the other patients is validation.",
        ),
    )
    DEFAULT_BUILDER_CONFIG_NAME = "patient"
    description = _DESCRIPTION
    homepage = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
    citation = _CITATION
    modality = "X-ray"
    published = 112_120
    options = ("source", "allow_missing")
    finding_names = tuple(FINDINGS.values())
    more_features = FILM_FEATURES

    def rows(self) -> dict[str, list[Row]]:
        """Lists the films of each split."""
        root = source_folder(
            self.source, name="chestxray14", what="folder of ChestX-ray14", layout=LAYOUT
        )
        table = find_table(root, _TABLES, LAYOUT)
        rows = present(read_labels(table), table, allow_missing=self.allow_missing)
        if self.builder_config.name == "patient":
            return split_by_patient(rows, test_tenths=2)
        listed = find_table(root, ("test_list.txt",), LAYOUT)
        names = set(listed.read_text(encoding="utf-8").split())
        split = split_by_patient([row for row in rows if row["id"] not in names], test_tenths=0)
        return {**split, "test": [row for row in rows if row["id"] in names]}


def read_labels(table: pathlib.Path) -> list[Row]:
    """Reads the table of labels.

    Args:
        table: The CSV file of the release, beside the folder `images`.

    Returns:
        For each film `path`, `id` (file name), `patient`, `findings` (by name, 1 or 0), `view`
        ("PA" or "AP"), `sex` ("M" or "F"), `age` (years; 2017's table has some of three digits).

    Raises:
        ValueError: If a column is missing or a finding is unknown.
    """
    columns, entries = read_table(table)
    check_columns(table, columns, _COLUMNS)
    names = {label for entry in entries for label in entry["Finding Labels"].split("|")}
    unknown = sorted(names - FINDINGS.keys() - {_NONE})
    if unknown:
        raise ValueError(
            f"{table} has unknown findings: {listed(unknown)}; known are {', '.join(FINDINGS)}"
        )
    rows = []
    for line, entry in enumerate(entries, start=2):
        labels = set(entry["Finding Labels"].split("|"))
        name = entry["Image Index"]
        rows.append(
            {
                "path": file_in(table.parent / "images", name, named_in=f"{table}, line {line}"),
                "id": name,
                "patient": entry["Patient ID"],
                "findings": {ours: int(theirs in labels) for theirs, ours in FINDINGS.items()},
                "view": entry["View Position"],
                "sex": entry["Patient Gender"],
                "age": age_of(entry["Patient Age"].rstrip("Y")),
            }
        )
    return rows
