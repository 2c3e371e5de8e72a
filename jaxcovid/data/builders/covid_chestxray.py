"""covid-chestxray-dataset: frontal chest X-rays of COVID-19 and other pneumonias.

Source: the public repository ieee8023/covid-chestxray-dataset (Cohen et al., arXiv:2006.11988).
"""

import pathlib
import re
from collections.abc import Sequence
from typing import Any, ClassVar
from urllib.parse import urlparse

import cv2
import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from jaxcovid.data import datasets, decoding
from jaxcovid.data.builders.base import FILM_FEATURES, ImageBuilder
from jaxcovid.data.builders.splits import leave_site_out, split_by_film, split_by_patient
from jaxcovid.data.builders.tables import (
    Row,
    age_of,
    check_columns,
    file_in,
    listed,
    present,
    read_table,
    source_folder,
)

LAYOUT = """\
  metadata.csv
  images/*
  annotations/lungVAE-masks/*_mask.png   (lung masks, where there are any)"""

CLASSES = ("COVID-19", "other")
FRONTAL_VIEWS = ("PA", "AP", "AP Supine", "AP Erect")
_OTHER_VIEWS = ("L", "Axial", "Coronal", "?", "")  # lateral, CT, unknown
SITES = {  # groups of films that can be left out together, by the host of their address
    "radiopaedia.org": "radiopaedia",
    "www.eurorad.org": "eurorad",
    "github.com": "hannover",  # the collection of the medical school there
}
ELSEWHERE = "elsewhere"  # most of them figures of articles
_WITHOUT = "without_"
_NO_FINDING_YET = {"todo", "unknown", ""}
_NEEDED = ("patientid", "finding", "view", "filename")
_ALIASES = {"wbc_count": "leukocyte_count"}

_DESCRIPTION = """\
Frontal chest X-rays collected from publications and radiology sites, COVID-19 against other
findings. Its owner asks not to claim diagnostic performance from it. The view tells how ill a
patient was (a bedridden one is filmed supine) and with that much of the class.
"""

_CITATION = """\
@article{cohen2020covid,
  title={COVID-19 Image Data Collection: Prospective Predictions Are the Future},
  author={Cohen, Joseph Paul and Morrison, Paul and Dao, Lan and Roth, Karsten and Duong, Tim Q and
    Ghassemi, Marzyeh},
  journal={arXiv preprint arXiv:2006.11988},
  year={2020}
}
"""


class CovidChestxray(ImageBuilder):
    """Builder of covid-chestxray-dataset: configs `patient`, `paper` and `without_SITE`.

    Beside the image a record has `finding` (as the table has it), `view`, `sex` ("M", "F" or ""),
    `age` (years, -1 unknown), `document` (DOI or address of the publication) and `lung_mask` (a PNG
    of the image's size, 0 and 255; empty if there is none).
    """

    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(
            name="patient", description="Patients split 60/10/30 into train, validation, test."
        ),
        tfds.core.BuilderConfig(
            name="paper",
            description="Films split 60/10/30 at random, patients across splits, and up to 100 "
            "other-pneumonia films of other data sets in the test split; for comparison only.",
        ),
        *(
            tfds.core.BuilderConfig(
                name=f"{_WITHOUT}{site}",
                description=f"All films of {site} are the test split; of those of other sites, "
                "patients are split 90/10 into train and validation.",
            )
            for site in (*SITES.values(), ELSEWHERE)
        ),
    )
    DEFAULT_BUILDER_CONFIG_NAME = "patient"
    description = _DESCRIPTION
    homepage = "https://github.com/ieee8023/covid-chestxray-dataset"
    citation = _CITATION
    modality = "X-ray"
    options = ("source", "allow_missing", "other_pneumonia")
    class_names = CLASSES
    more_features: ClassVar[dict[str, Any]] = {
        "finding": tfds.features.Text(),
        **FILM_FEATURES,
        "document": tfds.features.Text(),
        "lung_mask": tfds.features.Text(),
    }

    def __init__(self, *, other_pneumonia: Sequence[datasets.Dataset] = (), **kwargs: Any) -> None:
        """Creates the builder.

        Args:
            other_pneumonia: Data sets that give `paper` its further films, from their test splits.
            **kwargs: Those of `ImageBuilder`.

        Raises:
            ValueError: If another config than `paper` is given such data sets.
        """
        super().__init__(**kwargs)
        if other_pneumonia and self.builder_config.name != "paper":
            raise ValueError("only covid_chestxray/paper takes --other_pneumonia")
        self._other_pneumonia = other_pneumonia

    def rows(self) -> dict[str, list[Row]]:
        """Lists the films of each split."""
        rows = read_rows(self.source, allow_missing=self.allow_missing)
        if self.builder_config.name == "patient":
            return split_by_patient(rows, test_tenths=3)
        if self.builder_config.name.startswith(_WITHOUT):
            return leave_site_out(rows, self.builder_config.name.removeprefix(_WITHOUT))
        split = split_by_film(rows)
        split["test"] += pneumonia_films(self._other_pneumonia)
        return split

    def mask(self, row: Row, feature: str, shape: tuple[int, int]) -> np.ndarray:
        """The mask of a film, scaled to its size."""
        height, width = shape
        mask = decoding.decode_gray(decoding.read_file(row[feature]))
        return cv2.resize(mask, (width, height)) > 127


def read_rows(source: str | None, *, allow_missing: bool = False) -> list[Row]:
    """Reads the table of films, whichever of its header's dialects it has.

    Args:
        source: Folder of a checkout.
        allow_missing: Leave out films that the folder lacks instead of refusing.

    Returns:
        For each frontal film with a finding: `path`, `id` (file name), `patient` (of a film that
        is listed under several, all of them, joined by "+"), `label`, `finding`, `view`, `sex`,
        `age`, `document`, `site` (of `SITES`, or `ELSEWHERE`), `lung_mask` (path of a PNG, or
        None).

    Raises:
        FileNotFoundError: If the folder, the table or films are missing; names every one.
        ValueError: If a column is missing, a view is unknown or no film is left.
    """
    root = source_folder(
        source,
        name="covid_chestxray",
        what="checkout of covid-chestxray-dataset",
        layout=LAYOUT,
        needed=["metadata.csv"],
    )
    table = root / "metadata.csv"
    entries = _read_table(table)
    unknown = sorted({e["view"] for e in entries} - {*FRONTAL_VIEWS, *_OTHER_VIEWS})
    if unknown:
        raise ValueError(
            f"{table} has unknown views: {listed(unknown)}; known are "
            + ", ".join(view for view in (*FRONTAL_VIEWS, *_OTHER_VIEWS) if view)
        )
    frontal = [
        entry
        for entry in entries
        if entry.get("modality", "X-ray") == "X-ray"
        and entry["view"] in FRONTAL_VIEWS
        and entry["finding"].lower() not in _NO_FINDING_YET
    ]
    joined = _join_patients(frontal)
    rows = [
        {
            "path": file_in(root, f"{entry.get('folder', 'images')}/{name}", named_in=table),
            "id": name,
            "patient": joined[entry["patientid"]],
            "label": CLASSES[not is_covid(entry["finding"])],
            "finding": entry["finding"],
            "view": entry["view"],
            "sex": entry.get("sex", ""),
            "age": age_of(entry.get("age", "")),
            "document": entry.get("doi") or entry.get("url", ""),
            "site": SITES.get(urlparse(entry.get("url", "")).netloc, ELSEWHERE),
            "lung_mask": _mask_path(root, name),
        }
        for name, entry in {entry["filename"]: entry for entry in frontal}.items()
    ]
    if not rows:
        raise ValueError(f"{table} has no frontal X-ray with a finding")
    return present(rows, table, allow_missing=allow_missing)


def is_covid(finding: str) -> bool:
    """True if COVID-19 is one of the findings: flat, comma-listed or a path of a hierarchy."""
    return "COVID-19" in [token.strip() for token in re.split("[/,]", finding)]


def _read_table(table: pathlib.Path) -> list[dict[str, str]]:
    """Reads the rows, with column names in lower case and underscores, and values stripped."""
    columns, rows = read_table(table)
    header = {name: name.strip().lower().replace(" ", "_") for name in columns}
    header = {name: _ALIASES.get(plain, plain) for name, plain in header.items()}
    check_columns(table, list(header.values()), _NEEDED)
    return [
        {plain: row[name].strip() for name, plain in header.items()}
        for row in rows
        if any(row.values())
    ]


def _join_patients(entries: Sequence[dict[str, str]]) -> dict[str, str]:
    """Maps each patient id to a patient; ids that share a film are one, joined by "+"."""
    joined = {entry["patientid"]: {entry["patientid"]} for entry in entries}
    first: dict[str, str] = {}
    for entry in entries:
        patient, name = entry["patientid"], entry["filename"]
        other = first.setdefault(name, patient)
        if joined[patient] is not joined[other]:
            logging.warning(
                "%s is listed under patients %s and %s: one patient", name, other, patient
            )
            joined[other] |= joined[patient]
            for member in joined[other]:
                joined[member] = joined[other]
    return {patient: "+".join(sorted(members)) for patient, members in joined.items()}


def _mask_path(root: pathlib.Path, name: str) -> pathlib.Path | None:
    path = root / "annotations" / "lungVAE-masks" / f"{pathlib.Path(name).stem}_mask.png"
    return path if path.is_file() else None


def pneumonia_films(prepared: Sequence[datasets.Dataset], limit: int = 100) -> list[Row]:
    """Takes films of pneumonia from test splits of data sets without COVID-19, in equal parts.

    Raises:
        ValueError: If a data set does not label pneumonia, or labels COVID-19 as well.
    """
    films: list[tuple[str, list[datasets.Record]]] = []
    for dataset in prepared:
        classes = {name.lower(): label for label, name in enumerate(dataset.class_names)}
        if "pneumonia" not in classes and "Pneumonia" not in dataset.finding_names:
            raise ValueError(
                f"{dataset.name} has no pneumonia without COVID-19; take chest_xray_pneumonia or "
                "chestxray14"
            )
        pneumonia = [
            record
            for record in dataset.source("test")
            if (
                record["label"] == classes["pneumonia"]
                if classes
                else record["findings"]["Pneumonia"] == 1
            )
        ]
        films.append((dataset.name, pneumonia))
    rows: list[Row] = []
    # The smallest first: what it lacks of its part the others give.
    films.sort(key=lambda name_and_records: len(name_and_records[1]))
    for i, (name, records) in enumerate(films):
        wanted = (limit - len(rows)) // (len(films) - i)
        chosen = np.random.default_rng(0).permutation(len(records))[:wanted]
        for record in (records[index] for index in sorted(chosen)):
            rows.append(
                {
                    "image": record["image"],
                    "id": f"{name}/{record['id']}",
                    "patient": f"{name} {record['patient']}",
                    "label": CLASSES[1],
                    "finding": "Pneumonia",
                    "view": record.get("view", ""),
                    "sex": record.get("sex", ""),
                    "age": record.get("age", -1),
                    "document": "",
                    "lung_mask": None,
                }
            )
    return rows
