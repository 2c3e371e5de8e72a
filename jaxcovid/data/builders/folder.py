"""A user's own images: one sub-folder a class, or a CSV table."""

import collections
import pathlib
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from absl import logging

from jaxcovid.data import datasets, dicom
from jaxcovid.data.builders.base import (
    ImageBuilder,
    Row,
    check_columns,
    read_table,
    split_by_patient,
)
from jaxcovid.data.images import LUNG_WINDOW

_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}


class Folder(ImageBuilder):
    """Builder of a user's own images; the config's name is the name the user gives."""

    description = "A user's own images, stored as they are."
    more_features: ClassVar = {"series": tfds.features.Text()}  # of DICOM files, else empty

    def __init__(
        self,
        *,
        config: str,
        source: str | None = None,
        csv: str | None = None,
        window: tuple[float, float] = LUNG_WINDOW,
        **kwargs: Any,
    ) -> None:
        """Creates the builder; see `read_rows` for `source`, `csv` and the errors.

        Args:
            config: Name of the data set.
            source: Folder of the images.
            csv: Table of the images.
            window: See `ImageBuilder`.
            **kwargs: Those of the TFDS builder: `data_dir`, `version`.
        """
        self.window = window
        self._rows = read_rows(source, csv)
        self.class_names = sorted({row["label"] for row in self._rows})
        self.modality = max(row["modality"] for row in self._rows)  # of all, or of none
        super().__init__(config=tfds.core.BuilderConfig(name=config), **kwargs)

    def rows(self) -> dict[str, list[Row]]:
        """The images of the splits that there are."""
        found = {
            split: [row for row in self._rows if row["split"] == split]
            for split in dict.fromkeys(_SPLITS.values())
        }
        return {split: rows for split, rows in found.items() if rows}


def read_rows(source: str | None, csv: str | None) -> list[Row]:
    """Lists the images with their classes, patients and splits.

    Without `csv`, each sub-folder of `source` is a class and every file under it (at any depth,
    hidden files aside) an image. `csv` names the images in columns `path` (relative to `source`,
    or to the folder of the table without it), `label` and, if they are known, `patient` and
    `split`. A table may come from somebody else, so no path of it may lead out of that folder, be
    it absolute, by `..` or by a link.

    Without patients those of DICOM files count, and any other image as its own patient. Without
    splits, the patients are split 70/10/20 into train, validation and test, the classes shared out
    evenly, always in the same way.

    Args:
        source: Folder of the images.
        csv: Table of the images.

    Returns:
        A row for each image: `path`, `id` (the path in the folder or the table), `label` (class
        name), `patient`, `split`, `modality` and `series` (of DICOM files, else empty).

    Raises:
        FileNotFoundError: If the folder, the table or images of the table are not there.
        ValueError: If nothing was found, there are fewer than two classes, the table is damaged, a
            column is missing or has gaps, a path leads out, an id stands twice, a split is unknown,
            a patient stands in two splits, there are too few patients to split, or DICOM files have
            several modalities.
    """
    if csv:
        rows = _read_table(pathlib.Path(csv).expanduser(), source)
    elif source:
        rows = _read_folders(pathlib.Path(source).expanduser())
    else:
        raise ValueError("folder needs --source=DIR (a sub-folder for each class) or --csv=FILE")
    classes = sorted({row["label"] for row in rows})
    if len(classes) < 2:
        raise ValueError(
            f"at least 2 classes are needed, found {len(classes)}: {', '.join(classes)}"
        )
    headers = [dicom.header_of(row["path"]) for row in rows]
    modalities = sorted({header.modality for header in headers if header})
    if len(modalities) > 1:
        raise ValueError(
            f"DICOM files of several modalities, {', '.join(modalities)}; make a data set of each"
        )
    for row, header in zip(rows, headers, strict=True):
        row["modality"] = header.modality if header else ""
        row["series"] = header.series if header else ""
    if "patient" not in rows[0]:
        rows = [
            {**row, "patient": header and (header.patient or header.series or None)}
            for row, header in zip(rows, headers, strict=True)
        ]
        unknown = sum(row["patient"] is None for row in rows)
        if unknown:
            logging.warning(
                "no patient ids: each of the %d images counts as its own patient. If patients "
                "have several images, give a CSV with a column patient; else the test is too easy.",
                unknown,
            )
        rows = [{**row, "patient": row["patient"] or row["id"]} for row in rows]
    if "split" not in rows[0]:
        shared_out = split_by_patient(rows, test_tenths=2)
        rows = [{**row, "split": split} for split, found in shared_out.items() for row in found]
    datasets.check_patients(
        {
            split: {row["patient"] for row in rows if row["split"] == split}
            for split in _SPLITS.values()
        }
    )
    return rows


def _read_folders(root: pathlib.Path) -> list[Row]:
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    rows = []
    for path in sorted(root.glob("*/**/*")):
        relative = path.relative_to(root)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.is_file() and not hidden and path.name.lower() not in _SYSTEM_FILES:
            rows.append({"path": path, "id": relative.as_posix(), "label": relative.parts[0]})
    if not rows:
        raise ValueError(f"no images in the sub-folders of {root}; give each class a sub-folder")
    labels = {row["label"] for row in rows}
    if labels <= _SPLITS.keys():
        raise ValueError(
            f"the sub-folders {', '.join(sorted(labels))} of {root} are splits, not classes; "
            "give a CSV with columns path, label and split"
        )
    return rows


def _read_table(table: pathlib.Path, source: str | None) -> list[Row]:
    columns, entries = read_table(table)
    check_columns(table, columns, ("path", "label"))
    if not entries:
        raise ValueError(f"{table} names no images")
    used = [column for column in ("path", "label", "patient", "split") if column in columns]
    gaps = [
        f"line {line}: {column}"
        for line, entry in enumerate(entries, start=2)
        for column in used
        if not entry[column].strip()
    ]
    if gaps:
        raise ValueError(f"{table} has {len(gaps)} empty fields: {', '.join(gaps)}")

    root = pathlib.Path(source).expanduser() if source else table.parent
    rows = []
    outside = []
    for line, entry in enumerate(entries, start=2):
        row = {column: entry[column].strip() for column in used}
        path = pathlib.PurePath(row["path"])
        if not _leads_into(root / path, root):
            outside.append(f"line {line}: {row['path']}")
        rows.append({**row, "path": root / path, "id": path.as_posix()})
    if outside:
        raise ValueError(
            f"{len(outside)} images of {table} are outside of {root}: {', '.join(outside)}; move "
            "them into it, or give a --source=DIR that holds them"
        )
    ids = collections.Counter(row["id"] for row in rows)
    twice = sorted(identifier for identifier, count in ids.items() if count > 1)
    if twice:
        raise ValueError(f"{len(twice)} images stand more than once in {table}: {', '.join(twice)}")
    missing = [row["id"] for row in rows if not row["path"].is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} images of {table} are not in {root}: {', '.join(missing)}"
        )
    if "split" in used:
        unknown = sorted({row["split"] for row in rows} - _SPLITS.keys())
        if unknown:
            raise ValueError(
                f"unknown splits in {table}: {', '.join(unknown)}; use {', '.join(_SPLITS)}"
            )
        rows = [{**row, "split": _SPLITS[row["split"]]} for row in rows]
    return rows


def _leads_into(path: pathlib.Path, folder: pathlib.Path) -> bool:
    """True if a path, its links followed, is one in the folder."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a circle of links, or no name of a file
        return False
