"""COVID-CT: CT slices cut from preprints and radiology sites, with the official split.

Source: the public repository UCSD-AI4H/COVID-CT (Zhao et al., arXiv:2003.13865).
"""

import pathlib
from collections.abc import Mapping, Sequence

import cv2
import tensorflow_datasets as tfds

from jaxcovid.data import decoding
from jaxcovid.data.builders.base import ImageBuilder
from jaxcovid.data.builders.tables import Row, file_in, listed, read_table, source_folder
from jaxcovid.data.digest import check_patients
from jaxcovid.data.png import encode_png

LAYOUT = """\
  Images-processed/CT_COVID/*      (unpacked from CT_COVID.zip)
  Images-processed/CT_NonCOVID/*   (unpacked from CT_NonCOVID.zip)
  Data-split/COVID/{train,val,test}CT_COVID.txt
  Data-split/NonCOVID/{train,val,test}CT_NonCOVID.txt
  COVID-CT-MetaInfo.csv, NonCOVID-CT-MetaInfo.csv"""

# Images in the official lists. Other lists circulate under the same file names.
OFFICIAL_COUNTS = {
    ("train", "COVID"): 191,
    ("train", "NonCOVID"): 234,
    ("validation", "COVID"): 60,
    ("validation", "NonCOVID"): 58,
    ("test", "COVID"): 98,
    ("test", "NonCOVID"): 105,
}

_CLASSES = {"COVID": "COVID-19", "NonCOVID": "NonCOVID"}
_LIST_PREFIXES = {"train": "train", "validation": "val", "test": "test"}
_PATIENT_COLUMNS = {"COVID": ("File name", "Patient ID"), "NonCOVID": ("image name", "patient id")}

_DESCRIPTION = """\
349 CT images of COVID-19 and 397 without it, cut from preprints and radiology sites, with the
official split by patient (train 425, validation 118, test 203). The file formats of the two
classes differ, which a network can learn instead of the disease.
"""

_CITATION = """\
@article{zhao2020covidct,
  title={COVID-CT-Dataset: a CT image dataset about COVID-19},
  author={Zhao, Jinyu and Zhang, Yichen and He, Xuehai and Xie, Pengtao},
  journal={arXiv preprint arXiv:2003.13865},
  year={2020}
}
"""


class CovidCt(ImageBuilder):
    """Builder of COVID-CT: configs `original` (the files as they are) and `gray320`."""

    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(name="original", description="The original files, byte for byte."),
        tfds.core.BuilderConfig(
            name="gray320",
            description="8-bit gray PNG, the long side at most 320 px (shrunk by area).",
        ),
    )
    DEFAULT_BUILDER_CONFIG_NAME = "original"
    description = _DESCRIPTION
    homepage = "https://github.com/UCSD-AI4H/COVID-CT"
    citation = _CITATION
    modality = "CT"
    published = 746
    class_names = tuple(_CLASSES.values())

    def rows(self) -> dict[str, list[Row]]:
        """See `read_rows`."""
        return read_rows(self.source)

    def encoded(self, row: Row) -> bytes:
        """The file, or what `gray320` makes of it."""
        data = super().encoded(row)
        return _shrink(data, long_side=320) if self.builder_config.name == "gray320" else data


def read_rows(source: str | None) -> dict[str, list[Row]]:
    """Reads the official lists and the patients of their images.

    Args:
        source: Folder of a checkout of COVID-CT.

    Returns:
        For each of train, validation and test its rows: `path`, `id` ("CT_COVID/NAME"), `patient`,
        `label` (class name).

    Raises:
        FileNotFoundError: If the folder, a file of the layout or an image is missing.
        ValueError: If the counts are not the official ones, an image has no patient id or a
            patient is in two splits.
    """
    needed = [f"Images-processed/CT_{group}" for group in _CLASSES]
    needed += [_list_path(split, group) for split, group in OFFICIAL_COUNTS]
    needed += [f"{group}-CT-MetaInfo.csv" for group in _CLASSES]
    root = source_folder(
        source, name="covid_ct", what="checkout of COVID-CT", layout=LAYOUT, needed=needed
    )
    rows = {split: [] for split in _LIST_PREFIXES}
    patients = {group: _read_patients(root, group) for group in _CLASSES}
    names = {place: _read_list(root, *place) for place in OFFICIAL_COUNTS}
    _check_counts(names)
    for (split, group), listed_names in names.items():
        folder = root / "Images-processed" / f"CT_{group}"
        rows[split] += [
            {
                "path": file_in(folder, name, named_in=_list_path(split, group)),
                "id": f"CT_{group}/{name}",
                "patient": patients[group].get(name),
                "label": _CLASSES[group],
            }
            for name in listed_names
        ]
    _check_rows([row for split_rows in rows.values() for row in split_rows], root)
    check_patients(
        {split: {row["patient"] for row in split_rows} for split, split_rows in rows.items()}
    )
    return rows


def _list_path(split: str, group: str) -> str:
    return f"Data-split/{group}/{_LIST_PREFIXES[split]}CT_{group}.txt"


def _read_list(root: pathlib.Path, split: str, group: str) -> list[str]:
    """The file names of an official list; "%" in one is a character, not an escape."""
    lines = (root / _list_path(split, group)).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip()]


def _check_counts(names: Mapping[tuple[str, str], Sequence[str]]) -> None:
    """Refuses lists that are not the official ones, by their numbers of names."""
    wrong = [
        f"{split} {group}: found {len(names[split, group])} "
        f"({len(set(names[split, group]))} different), expected {expected}"
        for (split, group), expected in OFFICIAL_COUNTS.items()
        if not len(names[split, group]) == len(set(names[split, group])) == expected
    ]
    if wrong:
        raise ValueError(
            f"these are not the official lists of COVID-CT: {'; '.join(wrong)}. "
            "Take Data-split/ from github.com/UCSD-AI4H/COVID-CT"
        )


def _check_rows(rows: Sequence[Row], root: pathlib.Path) -> None:
    """Refuses images that are absent or have no patient, and names all of them."""
    missing = [row["id"] for row in rows if not row["path"].is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} images of the lists are not in {root / 'Images-processed'}: "
            + listed(missing)
        )
    without_patient = [row["id"] for row in rows if not row["patient"]]
    if without_patient:
        raise ValueError(
            f"{len(without_patient)} images have no patient id in the MetaInfo files: "
            + listed(without_patient)
        )


def _read_patients(root: pathlib.Path, group: str) -> dict[str, str]:
    """Returns the patient of each file name; "Patient 12" of the COVID list is "COVID 12"."""
    name_column, patient_column = _PATIENT_COLUMNS[group]
    path = root / f"{group}-CT-MetaInfo.csv"
    columns, rows = read_table(path)
    if name_column not in columns or patient_column not in columns:
        raise ValueError(
            f"{path} has no columns {name_column!r} and {patient_column!r}; it has {columns}"
        )
    # "Patient" alone says nothing: the name carries the list that it counts in.
    return {
        row[name_column]: row[patient_column].strip().replace("Patient ", f"{group} ")
        for row in rows
    }


def _shrink(data: bytes, *, long_side: int) -> bytes:
    """Returns the image as gray PNG, its long side at most `long_side` px."""
    image = decoding.decode_gray(data)
    height, width = image.shape
    scale = long_side / max(height, width)
    if scale < 1:
        size = (max(1, round(scale * width)), max(1, round(scale * height)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return encode_png(image)
