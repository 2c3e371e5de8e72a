"""A user's own images: one sub-folder a class, or a CSV table."""

import collections
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from absl import logging

from jaxcovid.data import dicom, image_files, volumes
from jaxcovid.data.builders.base import ImageBuilder
from jaxcovid.data.builders.folder_listing import SPLITS, check_classes, list_folders, list_table
from jaxcovid.data.builders.mask_files import naming_mask
from jaxcovid.data.builders.splits import split_by_patient
from jaxcovid.data.builders.tables import Row
from jaxcovid.data.digest import check_patients
from jaxcovid.data.hounsfield import LUNG_WINDOW
from jaxcovid.data.image_error import ImageError
from jaxcovid.data.pseudonyms import Pseudonyms, names_patient
from jaxcovid.data.structures import FEATURES


class Folder(ImageBuilder):
    """Builder of a user's own images; the config's name is the name the user gives."""

    options = (
        "source",
        "csv",
        "window",
        "hu_offset",
        "every",
        "pseudonyms",
        "allow_missing",
    )
    named_by_user = True
    description = "A user's own images, stored as they are."
    one_label_a_file = True
    more_features: ClassVar = {"series": tfds.features.Text()}  # of DICOM files, else empty

    def __init__(
        self,
        *,
        config: str,
        source: str | None = None,
        csv: str | None = None,
        window: tuple[float, float] = LUNG_WINDOW,
        hu_offset: float | None = None,
        every: int = 1,
        pseudonyms: Pseudonyms | None = None,
        allow_missing: bool = False,
        **kwargs: Any,
    ) -> None:
        """Creates the builder; see `read_rows` for `source`, `csv` and the errors.

        Args:
            config: Name of the data set.
            source: Folder of the images.
            csv: Table of the images.
            window: See `ImageBuilder`.
            hu_offset: See `ImageBuilder`.
            every: Of volumes every how many slices are taken.
            pseudonyms: For the ids of patients and series; None keeps the ids.
            allow_missing: See `ImageBuilder`.
            **kwargs: Those of the TFDS builder: `data_dir`, `version`.
        """
        self.window, self.hu_offset = window, hu_offset
        self._rows = read_rows(
            source, csv, every=every, allow_missing=allow_missing, pseudonyms=pseudonyms
        )
        self.class_names = sorted({row["label"] for row in self._rows})
        masks = [name for name in FEATURES.values() if name in self._rows[0]]
        self.more_features = {**self.more_features, **dict.fromkeys(masks, tfds.features.Text())}
        self.modality = max(row["modality"] for row in self._rows)  # of all, or of none
        if hu_offset is not None:
            if self.modality not in ("", "CT"):
                raise ValueError(f"--hu_offset is of CT, these are {self.modality} images")
            self.modality = "CT"
        config = tfds.core.BuilderConfig(name=config)
        super().__init__(config=config, allow_missing=allow_missing, **kwargs)

    def rows(self) -> dict[str, list[Row]]:
        """Lists the images of the splits that are not empty."""
        splits = {
            split: [row for row in self._rows if row["split"] == split]
            for split in dict.fromkeys(SPLITS.values())
        }
        return {split: rows for split, rows in splits.items() if rows}


def read_rows(
    source: str | None,
    csv: str | None,
    *,
    every: int = 1,
    allow_missing: bool = False,
    pseudonyms: Pseudonyms | None = None,
) -> list[Row]:
    """Lists the images with their classes, patients and splits.

    Without `csv`, each sub-folder of `source` is a class and every file under it (at any depth, see
    `image_files`) an image, or a volume of several. `csv` names the images in columns `path`
    (relative to `source`, or to the folder of the table without it), `label` and, if they are
    known, `patient`, `split`, `lung_mask` and `lesion_mask` (paths as well; of a NIfTI volume that
    of a NIfTI file). A table may come from somebody else, so no path of it may lead out of that
    folder, be it absolute, by `..` or by a link.

    DICOM objects without pixels, scouts and slices that are not axial are left out and counted.

    Without patients those of DICOM files count, and any other file as its own patient. Without
    splits, the patients are split 70/10/20 into train, validation and test, each with the same
    mixture of classes, always in the same way.

    Args:
        source: Folder of the images.
        csv: Table of the images.
        every: Of volumes every how many slices are taken.
        allow_missing: Leave out images that the table names and that are not there, and volumes
            that cannot be read.
        pseudonyms: For the ids of patients and series.

    Returns:
        A row for each image: `path`, `id` (the path in the folder or the table; of a slice of a
        volume with its number behind a "#"), `label` (class name), `patient`, `split`, `modality`,
        `series` (of DICOM files, else empty), of a volume `slice`, and the masks that a table has
        columns of, paths or None.

    Raises:
        FileNotFoundError: If the folder, the table or files of the table are not there.
        ValueError: If there are no images, fewer than two classes (one, if there are masks) or two
            that differ only in case or blanks, the table is unusable (see `list_table`), a patient
            is in two splits, there are too few patients to split, one PatientID is that of all
            files, or files are of several modalities.
    """
    left_out: collections.Counter[str] = collections.Counter()
    if csv:
        rows = list_table(pathlib.Path(csv).expanduser(), source, allow_missing=allow_missing)
    elif source:
        rows = list_folders(pathlib.Path(source).expanduser(), left_out)
    else:
        raise ValueError("folder needs --source=DIR (a sub-folder for each class) or --csv=FILE")
    _check_files(rows)
    headers = {row["id"]: dicom.header_of(row["path"]) for row in rows}
    rows = _without_left_out(rows, headers, left_out)
    check_classes(rows)
    _add_patients(rows, headers)
    _replace_ids(rows, pseudonyms)
    rows = _with_slices(rows, headers, every, allow_missing=allow_missing)
    _check_modalities(rows)
    return _with_splits(rows)


def _with_splits(rows: list[Row]) -> list[Row]:
    """The rows with `split`, and no patient in two of them."""
    if "split" not in rows[0]:
        splits = split_by_patient(rows, test_tenths=2)
        rows = [{**row, "split": split} for split, members in splits.items() for row in members]
    check_patients(
        {
            split: {row["patient"] for row in rows if row["split"] == split}
            for split in SPLITS.values()
        }
    )
    return rows


def _without_left_out(
    rows: Sequence[Row],
    headers: Mapping[str, dicom.Header | None],
    left_out: collections.Counter[str],
) -> list[Row]:
    """The rows that are pictures to train on; logs how many others there are, by reason."""
    reasons = {name: header.left_out for name, header in headers.items() if header}
    left_out.update(reason for reason in reasons.values() if reason)
    if text := image_files.counts_text(left_out):
        logging.warning("Left out: %s", text)
    return [row for row in rows if not reasons.get(row["id"])]


def _check_files(rows: Sequence[Row]) -> None:
    """Refuses one file in two rows, also by way of links."""
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(os.path.realpath(row["path"]), row)
        if other is not row:
            raise ValueError(
                f"{other['id']} ({other['label']}) and {row['id']} ({row['label']}) are one file; "
                "name it once"
            )


def _add_patients(rows: Sequence[Row], headers: Mapping[str, dicom.Header | None]) -> None:
    """Gives rows `series` and, if the table has none, `patient`.

    Raises:
        ValueError: If one PatientID is that of all DICOM files, or a placeholder.
    """
    for row in rows:
        header = headers[row["id"]]
        row["modality"] = header.modality if header else ""
        row["series"] = header.series if header else ""
        row["dicom patient"] = header.patient if header else ""
    if "patient" in rows[0]:
        return
    counts = collections.Counter(row["dicom patient"] for row in rows if row["dicom patient"])
    anonymous = [patient for patient in counts if dicom.is_placeholder(patient)]
    if len(counts) == 1 and counts.total() > 1:
        anonymous = list(counts)
    if anonymous:
        reasons = [
            f"{counts[patient]} files have the PatientID {patient!r}" for patient in anonymous
        ]
        raise ValueError(
            f"{'; '.join(reasons)}: that may be many people. Give a CSV with columns path, label "
            "and patient, so that no patient is in two splits"
        )
    unknown = 0
    for row in rows:
        row["patient"] = row["dicom patient"] or row["series"]
        if not row["patient"]:
            row["patient"] = row["id"]
            unknown += 1
    if unknown:
        logging.warning(
            "no patient ids: each of the %d images counts as its own patient. If patients "
            "have several images, give a CSV with a column patient; else the test is too easy.",
            unknown,
        )


def _replace_ids(rows: Sequence[Row], pseudonyms: Pseudonyms | None) -> None:
    """Replaces the ids of patients and series by pseudonyms, if wanted."""
    named = 0
    for row in rows:
        patient = row.pop("dicom patient")
        if pseudonyms:
            named += names_patient(row["id"], patient or row["patient"])
            if row["patient"] != row["id"]:
                row["patient"] = pseudonyms(row["patient"])
            row["series"] = pseudonyms(row["series"])
    if named:
        logging.warning(
            "%d paths hold the id of their patient, and the data set keeps paths: rename them",
            named,
        )


def _with_slices(
    rows: Sequence[Row],
    headers: Mapping[str, dicom.Header | None],
    every: int,
    *,
    allow_missing: bool,
) -> list[Row]:
    """Replaces the row of a volume by one for each of its slices."""
    taken: list[Row] = []
    bad: list[str] = []
    for row in rows:
        try:
            if not volumes.is_volume(row["path"], headers[row["id"]]):
                taken.append(row)
                continue
            volume = volumes.open_volume(row["path"])
            for feature in FEATURES.values():
                if row.get(feature):
                    with naming_mask(feature, row[feature]):
                        volumes.open_masks(row[feature], row["path"])
        except ImageError as error:
            bad.append(f"{row['id']}: {error}")
            continue
        row["modality"] = row["modality"] or volume.modality
        taken += [
            {**row, "id": f"{row['id']}#{index:04d}", "slice": index}
            for index in image_files.every_nth(len(volume), every)
        ]
    if bad:
        message = f"{len(bad)} unusable volumes:\n  " + "\n  ".join(bad)
        if not allow_missing or not taken:
            raise ImageError(f"{message}\nMend or remove them, or go without: --allow_missing")
        logging.warning("%s\nThey are left out", message)
    return taken


def _check_modalities(rows: Sequence[Row]) -> None:
    counts = collections.Counter(row["modality"] for row in rows if row["modality"])
    if len(counts) > 1:
        examples = {row["modality"]: row["id"] for row in rows}
        kinds = [f"{name} ({n}, as {examples[name]})" for name, n in sorted(counts.items())]
        raise ValueError(
            f"images of several modalities, {', '.join(kinds)}; make a data set of each"
        )
