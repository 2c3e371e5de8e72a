"""CheXpert: chest X-rays with fourteen labels taken from their reports, some of them uncertain.

Source: Irvin et al., arXiv:1901.07031; in its small size, `CheXpert-v1.0-small`.
"""

import pathlib
import re

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
  train.csv (or train.csv.gz), valid.csv
  train/patient00001/study1/view1_frontal.jpg
  valid/patient64541/study1/view1_frontal.jpg"""

FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
_VALUES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1, "": -2}
_COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS)
_PATIENT = re.compile(r"/(patient\d+)/")
_SEXES = {"Male": "M", "Female": "F"}

_DESCRIPTION = """\
Chest X-rays of Stanford Hospital, 2002 to 2017, with fourteen findings read from their reports by
rules. The published validation films are the test split; a tenth of the training patients is
validation.
"""

_CITATION = """\
@inproceedings{irvin2019chexpert,
  title={CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert Comparison},
  author={Irvin, Jeremy and Rajpurkar, Pranav and Ko, Michael and others},
  booktitle={AAAI Conference on Artificial Intelligence},
  year={2019}
}
"""


class Chexpert(ImageBuilder):
    """Builder of CheXpert: configs `frontal` and `all_views`."""

    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(name="frontal", description="Frontal films alone."),
        tfds.core.BuilderConfig(name="all_views", description="Lateral films too."),
    )
    DEFAULT_BUILDER_CONFIG_NAME = "frontal"
    description = _DESCRIPTION
    homepage = "https://stanfordmlgroup.github.io/competitions/chexpert/"
    citation = _CITATION
    modality = "X-ray"
    options = ("source", "allow_missing")
    finding_names = FINDINGS
    more_features = FILM_FEATURES

    @property
    def published(self) -> int:
        """Number of films of these views in `CheXpert-v1.0-small`."""
        return 191_229 if self.builder_config.name == "frontal" else 223_648

    def rows(self) -> dict[str, list[Row]]:
        """Lists the films of each split."""
        root = source_folder(
            self.source, name="chexpert", what="folder CheXpert-v1.0-small", layout=LAYOUT
        )
        tables = [
            find_table(root, (f"{name}.csv", f"{name}.csv.gz"), LAYOUT)
            for name in ("train", "valid")
        ]
        films = []
        for table in tables:
            rows = read_labels(table)
            if self.builder_config.name == "frontal":
                rows = [row for row in rows if row["view"] != "lateral"]
            films.append(present(rows, table, allow_missing=self.allow_missing))
        split = split_by_patient(films[0], test_tenths=0)
        return {"train": split["train"], "validation": split["validation"], "test": films[1]}


def read_labels(table: pathlib.Path) -> list[Row]:
    """Reads a table of labels, gzipped or not; 223,414 rows take a few seconds.

    Args:
        table: A CSV file with CheXpert's columns, in the folder of its images.

    Returns:
        For each film `path`, `id` (its path in the folder), `patient`, `findings` (by name: 1 yes,
        0 no, -1 uncertain, -2 not mentioned), `view` ("AP", "PA", "frontal" or "lateral"), `sex`
        ("M", "F" or ""), `age` (years).

    Raises:
        ValueError: If a column is missing, or a row has an unknown label or no patient in its path.
    """
    columns, entries = read_table(table)
    check_columns(table, columns, _COLUMNS)
    rows, bad = [], []
    for line, entry in enumerate(entries, start=2):
        # The first folder is that of the whole data set, whatever it is called here.
        name = entry["Path"].partition("/")[2]
        patient = _PATIENT.search(name)
        findings = {name: _VALUES.get(entry[name]) for name in FINDINGS}
        if not patient or None in findings.values():
            bad.append(f"line {line}")
            continue
        frontal = entry["Frontal/Lateral"] == "Frontal"
        rows.append(
            {
                "path": file_in(table.parent, name, named_in=f"{table}, line {line}"),
                "id": name,
                "patient": patient[1],
                "findings": findings,
                "view": (entry["AP/PA"] or "frontal") if frontal else "lateral",
                "sex": _SEXES.get(entry["Sex"], ""),
                "age": age_of(entry["Age"]),
            }
        )
    if bad:
        raise ValueError(
            f"{table} has {len(bad)} rows with a label other than 1, 0, -1 or blank or without a "
            f"patient in the path: {listed(bad)}"
        )
    return rows
