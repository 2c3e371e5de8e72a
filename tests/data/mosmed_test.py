"""MosMedData, from a tree as published: studies by grade, masks of some."""

import collections

import numpy as np
import pytest
from mask_trees import SLICES, save, scan, view

from jaxcovid.data import masks, structures
from jaxcovid.data.builders import mosmed
from jaxcovid.data.decoding import decode_gray
from jaxcovid.data.preparation import build

COUNTS = {"CT-0": 10, "CT-1": 20, "CT-2": 10, "CT-3": 6, "CT-4": 2}
MASKED = 10  # of CT-1


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("COVID19_1110")
    number = 0
    for grade, count in COUNTS.items():
        for i in range(count):
            number += 1
            values, _, lesion = scan(number)
            save(root / "studies" / grade / f"study_{number:04d}.nii.gz", values)
            if grade == "CT-1" and i < MASKED:
                save(root / "masks" / f"study_{number:04d}_mask.nii.gz", lesion)
    return root


def test_studies_are_split_alike_in_every_grade(tree, caplog):
    studies = mosmed.read_studies(str(tree))
    assert "48 studies; the published data set has 1110" in caplog.text
    split = mosmed.split_studies(studies)
    assert split == mosmed.split_studies(studies)
    counts = {
        name: collections.Counter(row["label"] for row in members)
        for name, members in split.items()
    }
    assert sum(map(collections.Counter.total, counts.values())) == 48
    assert counts["test"] == {"CT-0": 2, "CT-1": 4, "CT-2": 2, "CT-3": 1, "CT-4": 1}
    assert counts["validation"] == {"CT-0": 1, "CT-1": 2, "CT-2": 1, "CT-3": 1}
    masked = {name: sum(map(bool, map(_mask, members))) for name, members in split.items()}
    assert masked == {"train": 7, "validation": 1, "test": 2}
    everyone = [row["volume"] for members in split.values() for row in members]
    assert len(set(everyone)) == 48


def _mask(row):
    return row["lesion_mask"]


def test_slices_have_the_masks_of_their_study_or_none(tree, tmp_path):
    dataset = build("mosmed", tmp_path, source=str(tree), every=3)
    assert dataset.masks == ("lesion",)
    assert dataset.class_names == tuple(COUNTS)
    assert sum(dataset.split_sizes.values()) == 48 * SLICES // 3
    known = 0
    for split in dataset.split_sizes:
        for record in dataset.source(split):
            assert record["patient"] == record["volume"]
            shape = decode_gray(record["image"]).shape
            lungs, lesion = masks.decode_masks(record, shape).transpose(2, 0, 1)
            assert (lungs == structures.UNKNOWN).all()
            if record["lesion_mask"]:
                known += 1
                expected = view(scan(int(record["volume"].removeprefix("study_")))[2])
                np.testing.assert_array_equal(lesion, expected[record["slice_index"]])
            else:
                assert (lesion == structures.UNKNOWN).all()
    assert known == MASKED * SLICES // 3


def test_what_does_not_belong_together_is_refused(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"studies/CT-0, .*, masks not found"):
        mosmed.read_studies(str(tmp_path))
    (tmp_path / "studies").symlink_to(tree / "studies")
    save(tmp_path / "masks" / "study_0999_mask.nii.gz", scan()[2])
    with pytest.raises(ValueError, match=r"masks of no study in .*: study_0999"):
        mosmed.read_studies(str(tmp_path))
