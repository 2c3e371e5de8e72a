"""SARS-CoV-2 CT-scan: CT slices of Sao Paulo hospitals, of COVID-19 and of other lung diseases.

Source: Soares, Angelov et al., medRxiv 2020.04.24.20078584.
"""

import collections
import pathlib
import re

from absl import logging

from jaxcovid.data import image_files
from jaxcovid.data.builders.base import ImageBuilder
from jaxcovid.data.builders.tables import Row, listed, source_folder

LAYOUT = """\
  COVID/Covid (N).png           (or .jpg)
  non-COVID/Non-Covid (N).png"""

# Named as in COVID-CT, so that a network trained on one can be evaluated on the other.
_CLASSES = {"COVID": "COVID-19", "non-COVID": "NonCOVID"}
_SUFFIXES = {".png", ".jpg", ".jpeg"}
_NUMBER = re.compile(r"\((\d+)\)$")
# 60 patients have about 1,250 images of a class, one patient's with neighbouring numbers.
BLOCK = 20
GAP = 10  # numbers left out where a split begins

_DESCRIPTION = """\
2,481 CT slices of Sao Paulo hospitals: 1,252 of 60 patients with COVID-19, the rest of 60 patients
with other lung diseases. The patients of the images are lost. Neighbouring numbers are often of one
patient, so each class is split 70/10/20 in the order of its numbers, and the first ten numbers of
validation and test are left out. Patients may still be in two splits. `patient` is a block of
twenty neighbouring numbers, about as many as a patient has. Published accuracies of 97 % are of
splits by image.
"""

_CITATION = """\
@article{soares2020sarscov2,
  title={SARS-CoV-2 CT-scan dataset: A large dataset of real patients CT scans for SARS-CoV-2
    identification},
  author={Soares, Eduardo and Angelov, Plamen and Biaso, Sarah and Froes, Michele Higa and
    Abe, Daniel Kanda},
  journal={medRxiv 2020.04.24.20078584},
  year={2020}
}
"""


class SarsCov2Ct(ImageBuilder):
    """Builder of the SARS-CoV-2 CT-scan data set."""

    name = "sars_cov_2_ct"  # TFDS would make sars_cov2_ct of the class
    description = _DESCRIPTION
    homepage = "https://www.kaggle.com/datasets/plameneduardo/sarscov2-ctscan-dataset"
    citation = _CITATION
    modality = "CT"
    class_names = tuple(_CLASSES.values())

    def rows(self) -> dict[str, list[Row]]:
        """Lists the slices of each split."""
        return read_rows(self.source)


def read_rows(source: str | None) -> dict[str, list[Row]]:
    """Lists the slices and splits each class by their numbers.

    Args:
        source: Folder of the data set.

    Returns:
        For each of train, validation and test its rows: `path`, `id` (path in the folder),
        `patient` (class and block of numbers) and `label`.

    Raises:
        FileNotFoundError: If a folder of the layout is missing.
        ValueError: If there is no source, or an image without a number in its name.
    """
    root = source_folder(
        source,
        name="sars_cov_2_ct",
        what="folder of SARS-CoV-2 CT-scan",
        layout=LAYOUT,
        needed=_CLASSES,
    )
    split: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    left_out = 0
    for folder, label in _CLASSES.items():
        numbers = _numbers(root / folder)
        blocks = -(-max(numbers, default=0) // BLOCK)
        cuts = [BLOCK * round(share * blocks) for share in (0.7, 0.8)]  # last numbers before them
        for number, path in sorted(numbers.items()):
            if any(cut < number <= cut + GAP for cut in cuts):
                left_out += 1
                continue
            name = ("train", "validation", "test")[sum(number > cut for cut in cuts)]
            split[name].append(
                {
                    "path": path,
                    "id": path.relative_to(root).as_posix(),
                    "patient": f"{folder}/block {(number - 1) // BLOCK}",
                    "label": label,
                }
            )
    logging.info("%d images between the splits are left out", left_out)
    return split


def _numbers(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """The images of a folder by the numbers in their names.

    Raises:
        ValueError: If one has none, or two have the same.
    """
    numbers: dict[int, pathlib.Path] = {}
    wrong = []
    left_out: collections.Counter[str] = collections.Counter()
    for path in image_files.find_files(folder, left_out):
        match = _NUMBER.search(path.stem)
        if path.suffix.lower() not in _SUFFIXES:
            left_out["files that are no images"] += 1
        elif match is None or int(match[1]) in numbers:
            wrong.append(path.name)
        else:
            numbers[int(match[1])] = path
    if text := image_files.counts_text(left_out):
        logging.warning("Left out: %s", text)
    if wrong:
        raise ValueError(
            f"{len(wrong)} images of {folder} have no number in their names, or that of another: "
            + listed(wrong)
        )
    return numbers
