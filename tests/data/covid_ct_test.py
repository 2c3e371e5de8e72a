import collections
import os
import pathlib

import cv2
import numpy as np
import pytest
from covid_ct_tree import CLASS_COUNTS, SPLIT_SIZES, list_path, make_tree, table_path

from jaxcovid import prepare
from jaxcovid.data import datasets, decoding
from jaxcovid.data.builders import covid_ct


def edit(path, change):
    path.write_text(change(path.read_text()))


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "COVID-CT")


def test_rows_of_a_whole_checkout(tree):
    rows = covid_ct.read_rows(str(tree))
    assert {split: len(members) for split, members in rows.items()} == SPLIT_SIZES
    for split, members in rows.items():
        assert collections.Counter(row["label"] for row in members) == CLASS_COUNTS[split]
    assert rows["test"][1] == {
        "path": tree / "Images-processed" / "CT_COVID" / "test-p0-52%1.png",
        "id": "CT_COVID/test-p0-52%1.png",
        "patient": "COVID 2000",
        "label": "COVID-19",
    }
    assert rows["test"][-1]["patient"] == "crawled_patient_2052"


def test_blank_lines_and_a_byte_order_mark_are_harmless(tree):
    edit(list_path(tree, "test", "COVID"), "\n{}\n\n".format)
    edit(table_path(tree, "COVID"), "\ufeff{}".format)
    assert len(covid_ct.read_rows(str(tree))["test"]) == 203


def test_a_missing_or_empty_source_shows_the_layout(tmp_path):
    for source in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(
            FileNotFoundError, match=r"no checkout[\s\S]*Images-processed/CT_COVID/"
        ):
            covid_ct.read_rows(str(source))
    with pytest.raises(ValueError, match=r"--source=DIR[\s\S]*Images-processed/CT_COVID/"):
        covid_ct.read_rows(None)


def test_other_lists_are_refused_with_the_numbers(tree):
    edit(list_path(tree, "train", "COVID"), lambda text: text.split("\n", 1)[1])
    path = list_path(tree, "test", "NonCOVID")
    edit(path, lambda text: text + text.splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="official lists") as info:
        covid_ct.read_rows(str(tree))
    assert "train COVID: found 190 (190 different), expected 191" in str(info.value)
    assert "test NonCOVID: found 106 (105 different), expected 105" in str(info.value)


def test_all_missing_images_are_listed(tree):
    folder = tree / "Images-processed"
    gone = ["CT_COVID/train-p3-52%0.png", "CT_NonCOVID/test-p9-52%1.png"]
    for name in gone:
        (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"2 images .*: {', '.join(gone)}$"):
        covid_ct.read_rows(str(tree))


def test_images_without_a_patient_are_listed(tree):
    edit(table_path(tree, "NonCOVID"), lambda text: text.replace(",crawled_patient_7\n", ",\n"))
    edit(table_path(tree, "COVID"), lambda text: text.replace("test-p5-52%0", "renamed"))
    with pytest.raises(ValueError, match="3 images have no patient id") as info:
        covid_ct.read_rows(str(tree))
    for name in ("CT_NonCOVID/train-p7-52%0.png", "CT_COVID/test-p5-52%0.png"):
        assert name in str(info.value)


def test_a_table_with_other_columns_is_refused(tree):
    edit(table_path(tree, "COVID"), lambda text: text.replace("Patient ID", "Case", 1))
    with pytest.raises(ValueError, match="no columns 'File name' and 'Patient ID'"):
        covid_ct.read_rows(str(tree))


def test_a_patient_in_two_splits_is_refused(tree):
    edit(table_path(tree, "COVID"), lambda text: text.replace("Patient 2003,", "Patient 3,"))
    with pytest.raises(ValueError, match=r"1 patients .*: COVID 3 \(test, train\)"):
        covid_ct.read_rows(str(tree))


def test_all_broken_images_are_listed_and_nothing_is_left(tree, tmp_path):
    folder = tree / "Images-processed" / "CT_COVID"
    (folder / "train-p0-52%0.png").write_bytes(b"")
    (folder / "test-p0-52%0.png").write_text("no image")
    with pytest.raises(decoding.ImageError, match="2 unusable images") as info:
        prepare.build("covid_ct", tmp_path / "data", source=str(tree))
    assert "train-p0-52%0.png: the file is empty" in str(info.value)
    assert "test-p0-52%0.png: no readable image" in str(info.value)
    assert datasets.find_version("covid_ct", tmp_path / "data") is None
    assert not list((tmp_path / "data" / "covid_ct" / "original").iterdir())


def test_a_checkout_is_prepared(tree, tmp_path):
    dataset = prepare.build("covid_ct", tmp_path / "data", source=str(tree))
    assert dataset.name == "covid_ct/original"
    assert dataset.class_names == ("COVID-19", "NonCOVID")
    assert dataset.split_sizes == SPLIT_SIZES
    assert dataset.class_counts == CLASS_COUNTS
    assert dataset.patient_counts["validation"] == 30 + 29
    assert "2003.13865" in dataset.citation


real = pytest.mark.skipif("JAXCOVID_DATA" not in os.environ, reason="JAXCOVID_DATA is not set")


@pytest.fixture(scope="module")
def real_data(tmp_path_factory):
    source = pathlib.Path(os.environ["JAXCOVID_DATA"]) / "COVID-CT"
    data_dir = tmp_path_factory.mktemp("data")
    configs = ("original", "gray320")
    built = {c: prepare.build(f"covid_ct/{c}", data_dir, source=str(source)) for c in configs}
    return source, built


@real
@pytest.mark.parametrize("config", ["original", "gray320"])
def test_real_counts(real_data, config):
    dataset = real_data[1][config]
    assert dataset.name == f"covid_ct/{config}"
    assert dataset.split_sizes == SPLIT_SIZES
    assert dataset.class_counts == CLASS_COUNTS
    patients = {s: {r["patient"] for r in dataset.source(s)} for s in SPLIT_SIZES}
    assert {split: len(members) for split, members in patients.items()} == dataset.patient_counts
    # Patients of the COVID list, as published: 1-130, 131-162, 163-216.
    for split, (first, last) in {
        "train": (1, 130),
        "validation": (131, 162),
        "test": (163, 216),
    }.items():
        numbers = [int(p.split()[1]) for p in patients[split] if p.startswith("COVID ")]
        assert first <= min(numbers) <= max(numbers) <= last


@real
def test_real_original_keeps_every_byte(real_data):
    source, built = real_data
    for split in SPLIT_SIZES:
        for record in built["original"].source(split):
            assert record["image"] == (source / "Images-processed" / record["id"]).read_bytes()
    digest = "2ec1aa196cfbcfcf517d97cbf1a27331a6ded5794818d4d0b3eb5bb924ab8ce2"
    assert built["original"].digest == digest, (
        "every trained network names its data by this digest: update it only together with the "
        "images, the labels, the patients, the splits or the definition of the digest"
    )


@real
def test_real_gray320_is_the_original_shrunk_by_area(real_data):
    source, built = real_data
    shrunk = 0
    for record in built["gray320"].source("validation"):
        image = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_UNCHANGED)
        assert image.ndim == 2
        assert image.dtype == np.uint8
        whole = decoding.decode_gray((source / "Images-processed" / record["id"]).read_bytes())
        if max(whole.shape) <= 320:
            np.testing.assert_array_equal(image, whole)
            continue
        shrunk += 1
        assert max(image.shape) == 320
        ratio = image.shape[0] / image.shape[1]
        assert abs(ratio / (whole.shape[0] / whole.shape[1]) - 1) < 0.01
        assert abs(float(image.mean()) - float(whole.mean())) < 0.5
        assert image.std() < whole.std() + 0.5
    assert shrunk > 50
