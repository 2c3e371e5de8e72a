"""SARS-CoV-2 CT-scan: split by blocks of neighbouring numbers."""

import os
import pathlib
import re

import cv2
import numpy as np
import pytest

from jaxcovid.data.builders import sars_cov_2_ct
from jaxcovid.data.builders.covid_ct import CovidCt
from jaxcovid.data.preparation import build

COUNT = 200


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("sars")
    for folder, name in (("COVID", "Covid"), ("non-COVID", "Non-Covid")):
        (root / folder).mkdir()
        for number in range(1, COUNT + 1):
            suffix = "png" if number % 2 else "jpg"
            image = np.random.default_rng(number).integers(0, 256, (16, 20), np.uint8)
            cv2.imwrite(str(root / folder / f"{name} ({number}).{suffix}"), image)
    return root


def number_of(row):
    return int(re.search(r"\((\d+)\)", row["id"])[1])


def test_splits_are_far_apart_and_keep_blocks_together(tree):
    split = sars_cov_2_ct.read_rows(str(tree))
    for label in ("COVID-19", "NonCOVID"):
        numbers = [[number_of(r) for r in rows if r["label"] == label] for rows in split.values()]
        train, validation, test = map(sorted, numbers)
        assert train == list(range(1, 141))
        assert validation == list(range(151, 161))
        assert test == list(range(171, 201))
    patients = [{row["patient"] for row in rows} for rows in split.values()]
    assert not any(a & b for i, a in enumerate(patients) for b in patients[:i])
    assert {row["patient"] for row in split["train"] if number_of(row) in (21, 40)} == {
        "COVID/block 1",
        "non-COVID/block 1",
    }


def test_classes_are_those_of_covid_ct(tree, tmp_path):
    dataset = build("sars_cov_2_ct", tmp_path, source=str(tree))
    assert dataset.class_names == tuple(CovidCt.class_names)
    assert dataset.split_sizes == {"train": 280, "validation": 20, "test": 60}
    assert dataset.crossing_patients == 0
    assert dataset.masks == ()
    assert "Patients may still be in two splits" in dataset.description.replace("\n", " ")


def test_images_without_a_number_of_their_own_are_named(tmp_path, tree):
    (tmp_path / "non-COVID").symlink_to(tree / "non-COVID")
    (tmp_path / "COVID").mkdir()
    for name in ("Covid (1).png", "Covid (1).jpg", "Covid.png", "notes.txt"):
        (tmp_path / "COVID" / name).touch()
    with pytest.raises(ValueError, match=r"2 images of .*: Covid \(1\)\.png, Covid\.png"):
        sars_cov_2_ct.read_rows(str(tmp_path))


@pytest.mark.skipif("JAXCOVID_DATA" not in os.environ, reason="JAXCOVID_DATA is not set")
def test_the_real_images():
    source = pathlib.Path(os.environ["JAXCOVID_DATA"]) / "SARS-CoV-2-CT-scan"
    split = sars_cov_2_ct.read_rows(str(source))
    sizes = {name: len(rows) for name, rows in split.items()}
    assert sizes == {"train": 1739, "validation": 240, "test": 462}
