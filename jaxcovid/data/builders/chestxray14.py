"""ChestX-ray14 of the NIH: chest X-rays with fourteen findings, the open stand-in for CheXpert.

Source: Wang et al., arXiv:1705.02315, the NIH Clinical Center's public release.
"""

import csv
import pathlib
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from jaxcovid.data.builders.base import ImageBuilder, Row, present, split_by_patient

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
    finding_names = tuple(FINDINGS.values())
    more_features: ClassVar[dict[str, Any]] = {
        "view": tfds.features.Text(),
        "sex": tfds.features.Text(),
        "age": np.int32,
    }

    def __init__(
        self, *, source: str | None = None, allow_missing: bool = False, **kwargs: Any
    ) -> None:
        """Creates the builder.

        Args:
            source: Folder of the release; needed to build, not to read.
            allow_missing: Leave out films that the table names and that are absent or unusable.
            **kwargs: Those of the TFDS builder: `config`, `data_dir`, `version`.
        """
        super().__init__(**kwargs)
        self._source, self.allow_missing = source, allow_missing

    def rows(self) -> dict[str, list[Row]]:
        """The films of each split."""
        if not self._source:
            raise ValueError(f"chestxray14 needs --source=DIR, a folder with\n{LAYOUT}")
        root = pathlib.Path(self._source).expanduser()
        found = [root / name for name in _TABLES if (root / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{root} has no {_TABLES[0]}; expected\n{LAYOUT}")
        rows = present(read_labels(found[0]), found[0], allow_missing=self.allow_missing)
        if self.builder_config.name == "patient":
            return split_by_patient(rows, test_tenths=2)
        listed = root / "test_list.txt"
        if not listed.is_file():
            raise FileNotFoundError(f"{root} has no {listed.name}; expected\n{LAYOUT}")
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
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        absent = [name for name in _COLUMNS if name not in columns]
        if absent:
            raise ValueError(
                f"{table} has no column {' and no column '.join(absent)}; it has {columns}"
            )
        entries = list(reader)
    found = {label for entry in entries for label in entry["Finding Labels"].split("|")}
    unknown = sorted(found - FINDINGS.keys() - {_NONE})
    if unknown:
        raise ValueError(
            f"{table} has unknown findings: {', '.join(unknown)}; known are {', '.join(FINDINGS)}"
        )
    rows = []
    for entry in entries:
        labels = set(entry["Finding Labels"].split("|"))
        name = entry["Image Index"]
        rows.append(
            {
                "path": table.parent / "images" / name,
                "id": name,
                "patient": entry["Patient ID"],
                "findings": {ours: int(theirs in labels) for theirs, ours in FINDINGS.items()},
                "view": entry["View Position"],
                "sex": entry["Patient Gender"],
                "age": int(entry["Patient Age"].rstrip("Y") or -1),
            }
        )
    return rows
