"""What was trained on is no test, whatever it is called now."""

import csv
import shutil

import numpy as np
import pytest
from runs import arguments
from xray_trees import make_covid_chestxray

from jaxcovid import prepare
from jaxcovid.data import identity
from jaxcovid.data.opening import open_dataset

RECORD = {"id": "a.png", "patient": "p", "image": b"a", "series": ""}


def hashes(name, *records):
    return identity.identities_of([{**RECORD, **record} for record in records], name)


@pytest.mark.parametrize(
    ("trained", "tested", "images", "patients"),
    [
        (("folder/a", {}), ("folder/a", {}), 1, 1),
        (("folder/a", {}), ("folder/a", {"id": "b.png", "image": b"b"}), 0, 1),
        # Of two folders names and patients may be the same by chance, but not the bytes.
        (("folder/a", {}), ("folder/b", {"image": b"b"}), 0, 0),
        (("folder/a", {}), ("folder/b", {"id": "b.png", "patient": "q"}), 1, 0),
        # DICOM's patients are the same in both.
        (
            ("folder/a", {"series": "1.2"}),
            ("folder/b", {"series": "1.3", "id": "b", "image": b"b"}),
            0,
            1,
        ),
        # Of a published data set names and patients hold for all its configurations.
        (("covid_ct", {}), ("covid_ct/gray320", {"image": b"smaller"}), 1, 1),
        (("covid_ct", {}), ("ct_cov19", {"image": b"b"}), 0, 0),
        # No patient is known: the id stands in its place.
        (("folder/a", {"patient": "a.png"}), ("folder/a", {"id": "b", "patient": "b"}), 1, 0),
    ],
)
def test_overlap(trained, tested, images, patients):
    overlap = identity.overlap(hashes(*tested), [hashes(*trained)])
    assert (overlap.images, overlap.patients, overlap.total) == (images, patients, 1)
    assert bool(overlap) == bool(images or patients)


def test_they_are_read_as_written_and_damaged_ones_refused(tmp_path):
    splits = {"train": hashes("folder/a", {}, {"id": "b"}), "test": hashes("folder/a", {})}
    identity.save(tmp_path / "h.npz", splits)
    for split, read in identity.load(tmp_path / "h.npz").items():
        for field in ("images", "ids", "patients"):
            np.testing.assert_array_equal(getattr(read, field), getattr(splits[split], field))
    whole = (tmp_path / "h.npz").read_bytes()
    (tmp_path / "h.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"h\.npz is damaged"):
        identity.load(tmp_path / "h.npz")


def test_by_film_the_paper_tests_patients_that_were_trained_on(tmp_path):
    source = str(make_covid_chestxray(tmp_path / "films"))
    by_patient, by_film = (
        prepare.build(name, tmp_path / "data", source=source).identities()
        for name in ("covid_chestxray", "covid_chestxray/paper")
    )
    assert not identity.overlap(by_patient["test"], [by_patient["train"]]).patients
    assert identity.overlap(by_film["test"], [by_film["train"]]).patients
    assert identity.overlap(by_film["test"], [by_patient["train"]]).images


@pytest.fixture
def exchanged(data_dir, tmp_path):
    """A data directory in which train and test of the training's data set are exchanged."""
    copy = tmp_path / "blobs"
    shutil.copytree(data_dir.parent / "blobs0", copy)
    with (copy / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    swap = {"train": "test", "test": "train", "validation": "validation"}
    lines = [f"{r['path']},{r['label']},{r['patient']},{swap[r['split']]}" for r in rows]
    (copy / "table.csv").write_text("\n".join(["path,label,patient,split", *lines]) + "\n")
    for name in ("folder/blobs", "folder/renamed"):
        prepare.build(name, tmp_path / "data", csv=str(copy / "table.csv"))
    return tmp_path / "data"


@pytest.mark.long
def test_exchanged_splits_are_another_data_set(trained, data_dir, exchanged, command):
    """The AUC on the exchanged split was 1.000, with exit status 0."""
    before, after = (open_dataset("folder/blobs", where) for where in (data_dir, exchanged))
    assert before.digest != after.digest
    resumed = command("train", *arguments(trained, exchanged), check=False)
    assert resumed.returncode == 1
    assert "dataset.digest" in resumed.stderr
    assert "may now be in its validation or test split" in resumed.stderr
    words = ("evaluate", f"--workdir={trained}", "--split=test", f"--data_dir={exchanged}")
    refused = command(*words, check=False)
    assert refused.returncode == 1
    assert (
        "24 of 24 images of the test split of folder/blobs were in the training" in refused.stderr
    )
    assert "are of 8 patients" in refused.stderr
    # Under another name it is no external test either.
    renamed = command(*words, "--dataset=folder/renamed", check=False)
    assert renamed.returncode == 1
    assert "24 of 24 images of the test split of folder/renamed were in" in renamed.stderr
