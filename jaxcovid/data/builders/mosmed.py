"""MosMedData: CT volumes of Moscow hospitals, graded by the share of the lungs involved.

Source: mosmed.ai, data set COVID19_1110 (Morozov et al., arXiv:2005.06465).
"""

import collections
import pathlib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from jaxcovid.data.builders.base import ImageBuilder
from jaxcovid.data.builders.tables import Row, listed, slice_rows, source_folder

LAYOUT = """\
  studies/CT-0 .. studies/CT-4/study_NNNN.nii.gz
  masks/study_NNNN_mask.nii.gz   (of 50 studies)"""

CLASSES = ("CT-0", "CT-1", "CT-2", "CT-3", "CT-4")
_STUDIES = 1110

_DESCRIPTION = """\
CT slices of 1,110 studies of Moscow hospitals, the label of a study that of all of its slices: CT-0
no sign of viral pneumonia, CT-1 less than 25 % of the lungs involved, CT-2 25 to 50 %, CT-3 50 to
75 %, CT-4 more. 50 studies, all CT-1, have masks of the lesion; there are none of the lungs.
Studies are split 70/10/20, each class and those with masks likewise.
"""

_CITATION = """\
@article{morozov2020mosmeddata,
  title={MosMedData: Chest CT Scans With COVID-19 Related Findings Dataset},
  author={Morozov, S. P. and Andreychenko, A. E. and Pavlov, N. A. and Vladzymyrskyy, A. V. and
    Ledikhova, N. V. and Gombolevskiy, V. A. and Blokhin, I. A. and Gelezhe, P. B. and
    Gonchar, A. V. and Chernina, V. Yu.},
  journal={arXiv preprint arXiv:2005.06465},
  year={2020}
}
"""


class Mosmed(ImageBuilder):
    """Builder of MosMedData.

    Beside the image a record has `volume` (the study, which is also its patient), `slice_index`
    (from the feet on) and `lesion_mask`, empty of studies that were not segmented.
    """

    options = ("source", "every")
    description = _DESCRIPTION
    homepage = "https://mosmed.ai/datasets/covid19_1110"
    citation = _CITATION
    modality = "CT"
    class_names = CLASSES
    masks_keep_affine = False
    more_features: ClassVar = {
        "volume": tfds.features.Text(),
        "slice_index": np.int32,
        "lesion_mask": tfds.features.Text(),
    }

    def rows(self) -> dict[str, list[Row]]:
        """Lists the slices of each split."""
        studies = split_studies(read_studies(self.source))
        return {
            split: [row for study in members for row in slice_rows(study, self.every)]
            for split, members in studies.items()
        }


def read_studies(source: str | None) -> list[Row]:
    """Lists the studies, and warns if there are not all that were published.

    Args:
        source: Folder of the data set.

    Returns:
        For each study `path`, `volume`, `patient`, `label` and `lesion_mask`, a path or None.

    Raises:
        FileNotFoundError: If a folder of the layout is missing or has no study.
        ValueError: If there is no source, or a mask is of no study.
    """
    folders = [f"studies/{grade}" for grade in CLASSES]
    root = source_folder(
        source,
        name="mosmed",
        what="folder of MosMedData",
        layout=LAYOUT,
        needed=(*folders, "masks"),
    )
    masks = {
        path.name.partition(".")[0].removesuffix("_mask"): path
        for path in sorted((root / "masks").glob("*.nii*"))
    }
    studies = []
    for grade, folder in zip(CLASSES, folders, strict=True):
        paths = sorted((root / folder).glob("*.nii*"))
        if not paths:
            raise FileNotFoundError(f"{root / folder} has no study; expected\n{LAYOUT}")
        studies += [_study(path, grade, masks) for path in paths]
    if masks:
        raise ValueError(f"masks of no study in {root}: {listed(sorted(masks))}")
    if len(studies) != _STUDIES:
        logging.warning("%d studies; the published data set has %d", len(studies), _STUDIES)
    return studies


def _study(path: pathlib.Path, grade: str, masks: dict[str, pathlib.Path]) -> Row:
    """The row of a study, whose mask is taken out of those left over."""
    name = path.name.partition(".")[0]
    return {
        "path": path,
        "volume": name,
        "patient": name,
        "label": grade,
        "lesion_mask": masks.pop(name, None),
    }


def split_studies(studies: Sequence[Row]) -> dict[str, list[Row]]:
    """Splits studies 70/10/20 into train, validation and test, the same at each call.

    Each class is split by itself, studies with and without a mask apart. Of at least two studies
    one is tested: CT-4 has no more.

    Args:
        studies: With `label` and `lesion_mask`.
    """
    strata = collections.defaultdict(list)
    for study in studies:
        strata[study["label"], study["lesion_mask"] is None].append(study)
    split: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for _, members in sorted(strata.items()):
        order = np.random.default_rng(0).permutation(len(members))
        tested = max(round(0.2 * len(members)), min(1, len(members) - 1))
        validated = tested + round(0.1 * len(members))
        for rank, index in enumerate(order):
            name = "test" if rank < tested else "validation" if rank < validated else "train"
            split[name].append(members[index])
    return split
