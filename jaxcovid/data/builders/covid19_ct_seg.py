"""COVID-19-CT-Seg: slices of 20 CT volumes of COVID-19 with masks of the lungs and the lesion.

Source: zenodo.org/record/3757476 (Ma et al. 2020), CC BY 4.0; the volumes are from
coronacases.org and radiopaedia.org.
"""

import pathlib
from collections.abc import Sequence
from typing import ClassVar

import cv2
import numpy as np
import tensorflow_datasets as tfds

from jaxcovid.data import decoding, volumes
from jaxcovid.data.builders.base import ImageBuilder
from jaxcovid.data.builders.tables import (
    Row,
    check_columns,
    file_in,
    listed,
    read_table,
    slice_rows,
    source_folder,
)
from jaxcovid.data.png import encode_png

LAYOUT = """\
  COVID-19-CT-Seg_20cases/VOLUME.nii.gz   (coronacases_001, radiopaedia_10_85902_1, ...)
  Lung_Mask/VOLUME.nii.gz
  Infection_Mask/VOLUME.nii.gz
or, of slices that were exported as pictures,
  cases.csv          (columns file, case: 0003, case01)
  ct/FILE.jpg
  lungs/FILE.png
  infection/FILE.png"""

_SCANS = "COVID-19-CT-Seg_20cases"
_MASKS = {"lung_mask": "Lung_Mask", "lesion_mask": "Infection_Mask"}
_PICTURE_MASKS = {"lung_mask": "lungs", "lesion_mask": "infection"}

# Patients of each fold, first one of either source. Volumes radiopaedia_10_85902_1 and _3 are of
# one patient, as the authors say, and the two of radiopaedia's case 29 are taken to be. The folds
# have 106 to 109 of the 538 exported slices.
FOLDS = (
    ("coronacases_006", "radiopaedia_10", "coronacases_002"),
    ("coronacases_007", "radiopaedia_27", "coronacases_008", "radiopaedia_29"),
    ("coronacases_004", "radiopaedia_7", "coronacases_010", "radiopaedia_4"),
    ("coronacases_009", "radiopaedia_40", "coronacases_001"),
    ("coronacases_005", "radiopaedia_36", "coronacases_003", "radiopaedia_14"),
)
_VALIDATED = 2  # patients of the next fold: one of either source

# Patients of the exported cases, which were cut from the volumes in the order of their names.
_CORONACASES = {f"case{i:02d}": f"coronacases_{i:03d}" for i in range(1, 11)}
_RADIOPAEDIA = {
    "case11": "radiopaedia_10",
    "case12": "radiopaedia_10",
    "case13": "radiopaedia_14",
    "case14": "radiopaedia_27",
    "case15": "radiopaedia_29",
    "case16": "radiopaedia_36",
    "case17": "radiopaedia_40",
    "case18": "radiopaedia_4",
    "case19": "radiopaedia_7",
}
PATIENTS = _CORONACASES | _RADIOPAEDIA

_DESCRIPTION = """\
Slices of 20 CT volumes of 18 patients with COVID-19, each with masks of the lungs and of the
infection. Five folds by patient: the test split is one fold, the validation split two patients of
the next one, the training split all others. Every patient has COVID-19, so that it can train and
test a segmentation, but no screening.
"""

_CITATION = """\
@article{ma2021toward,
  title={Toward data-efficient learning: A benchmark for COVID-19 CT lung and infection
    segmentation},
  author={Ma, Jun and Wang, Yixin and An, Xingle and Ge, Cheng and Yu, Ziqi and Chen, Jianan and
    Zhu, Qiongjie and Dong, Guoqiang and He, Jian and He, Zhiqiang and others},
  journal={Medical Physics},
  volume={48},
  number={3},
  pages={1197--1210},
  year={2021}
}
"""


class Covid19CtSeg(ImageBuilder):
    """Builder of COVID-19-CT-Seg: configs `fold0` to `fold4`.

    Beside image and masks a record has `volume` (its name, or the exported case) and `slice_index`
    (in the volume, from the feet on; of an exported slice the number of its file).
    """

    BUILDER_CONFIGS = tuple(
        tfds.core.BuilderConfig(name=f"fold{i}", description=f"Fold {i} of 0 to 4 is the test.")
        for i in range(len(FOLDS))
    )
    DEFAULT_BUILDER_CONFIG_NAME = "fold0"
    options = ("source", "every")
    description = _DESCRIPTION
    homepage = "https://zenodo.org/record/3757476"
    citation = _CITATION
    modality = "CT"
    class_names = ("COVID-19",)
    masks_keep_affine = False
    more_features: ClassVar = {
        "volume": tfds.features.Text(),
        "slice_index": np.int32,
        **{name: tfds.features.Image(shape=(None, None, 1)) for name in _MASKS},
    }

    def rows(self) -> dict[str, list[Row]]:
        """Lists the slices of each split."""
        rows = read_rows(self.source, every=self.every)
        return split_fold(rows, int(self.builder_config.name.removeprefix("fold")))

    def open_volume(self, path: pathlib.Path) -> volumes.Volume:
        """Opens a volume; those of radiopaedia went through a window before."""
        windowed = path.name.startswith("radiopaedia")
        return volumes.open_volume(path, window=self.window, gray_levels=windowed)

    def encoded(self, row: Row) -> bytes:
        """The file of an exported slice, or the slice as PNG, upright."""
        if row["upside_down"]:
            return encode_png(cv2.flip(decoding.decode_gray(decoding.read_file(row["path"])), 0))
        return super().encoded(row)

    def mask(self, row: Row, feature: str, shape: tuple[int, int]) -> np.ndarray:
        """A mask of a slice, upright as its image."""
        mask = super().mask(row, feature, shape)
        return mask[::-1] if row["upside_down"] else mask


def read_rows(source: str | None, *, every: int = 1) -> list[Row]:
    """Lists the slices of either layout.

    Args:
        source: Folder of the volumes, or of exported slices.
        every: Of volumes every how many slices are taken.

    Returns:
        For each slice `path`, `id`, `patient`, `label`, `volume`, `slice_index`, the paths
        `lung_mask` and `lesion_mask`, `upside_down` (it shows the back at the top), and of a volume
        `slice`.

    Raises:
        FileNotFoundError: If volumes, slices or masks are missing; names them.
        ValueError: If a volume or a case is not of this data set, or a header is damaged.
    """
    root = source_folder(source, name="covid19_ct_seg", what="folder of slices", layout=LAYOUT)
    if (root / "cases.csv").is_file():
        rows = _exported_rows(root)
    else:
        needed = (_SCANS, *_MASKS.values())
        what = "folder of COVID-19-CT-Seg"
        source_folder(source, name="covid19_ct_seg", what=what, layout=LAYOUT, needed=needed)
        rows = _volume_rows(root, every)
    files = {row[key]: None for row in rows for key in ("path", *_MASKS)}
    if missing := [str(path.relative_to(root)) for path in files if not path.is_file()]:
        raise FileNotFoundError(f"{len(missing)} files are not in {root}: {listed(missing)}")
    return rows


def _volume_rows(root: pathlib.Path, every: int) -> list[Row]:
    """The slices of the published volumes; see `read_rows`."""
    rows = []
    for path in sorted((root / _SCANS).glob("*.nii*")):
        name = path.name.partition(".")[0]
        patient = "_".join(name.split("_")[:2])
        _check_patient(patient, path)
        row = {
            "path": path,
            "patient": patient,
            "label": "COVID-19",
            "volume": name,
            "upside_down": False,
            **{feature: root / folder / path.name for feature, folder in _MASKS.items()},
        }
        rows += slice_rows(row, every)
    if absent := {patient for fold in FOLDS for patient in fold} - {row["patient"] for row in rows}:
        raise FileNotFoundError(f"{root / _SCANS} has no volume of {listed(sorted(absent))}")
    return rows


def _exported_rows(root: pathlib.Path) -> list[Row]:
    """The slices that were exported as pictures; see `read_rows`."""
    table = root / "cases.csv"
    columns, entries = read_table(table)
    check_columns(table, columns, ("file", "case"))
    rows = []
    for line, entry in enumerate(entries, start=2):
        name, case = entry["file"].strip(), entry["case"].strip()
        place = f"{table} line {line}"
        if not name.isdecimal() or case not in PATIENTS:
            raise ValueError(f"{place}: no number of a file {name!r} or no case {case!r}")
        masks = {
            feature: file_in(root / folder, f"{name}.png", named_in=place)
            for feature, folder in _PICTURE_MASKS.items()
        }
        rows.append(
            {
                "path": file_in(root / "ct", f"{name}.jpg", named_in=place),
                "id": f"{case}/{name}",
                "patient": PATIENTS[case],
                "label": "COVID-19",
                "volume": case,
                "slice_index": int(name),
                "upside_down": case in _RADIOPAEDIA,
                **masks,
            }
        )
    return rows


def _check_patient(patient: str, path: pathlib.Path) -> None:
    if not any(patient in fold for fold in FOLDS):
        raise ValueError(f"{path} is no volume of COVID-19-CT-Seg; take it away")


def split_fold(rows: Sequence[Row], fold: int) -> dict[str, list[Row]]:
    """Splits slices by patient.

    Args:
        rows: With `patient`.
        fold: Index of the fold that is the test split. The first two patients of the next fold,
            one of either source, are the validation split, so that most of that fold is trained on.

    Returns:
        The rows of train, validation and test, in their order.
    """
    test = set(FOLDS[fold])
    validation = set(FOLDS[(fold + 1) % len(FOLDS)][:_VALIDATED])
    split: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row in rows:
        patient = row["patient"]
        name = "test" if patient in test else "validation" if patient in validation else "train"
        split[name].append(row)
    return split
