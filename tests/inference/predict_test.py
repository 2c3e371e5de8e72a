"""What `predict` makes of what lies in a hospital's folders."""

import csv
import io
import os
import shutil

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from jaxcovid import predict
from jaxcovid.inference import predictor

pytestmark = pytest.mark.long


def blob(seed, positive=True):
    image = np.random.default_rng(seed).integers(60, 120, (80, 80), np.uint8)
    if positive:
        cv2.circle(image, (40, 40), 14, 230, -1)
    return image


def write_dicom(path, seed, *, patient="", study="", series="", **elements):
    """A CT slice of the blob's gray values in Hounsfield units of the lung window."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SOPClassUID = pydicom.uid.CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PatientID = "CT", patient
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = 80, 80
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1350
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PixelData = np.round(blob(seed) * (1500 / 255)).astype(np.int16).tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def screen(workdir, *paths, **options):
    rows = list(predict.run(workdir, paths, **options))
    assert len({tuple(row) for row in rows}) == 1, "rows of other columns"
    return {row["id"]: row for row in rows}


def test_every_image_has_a_heatmap_of_its_own_that_the_table_names(trained, tmp_path):
    deep = "/".join(["d" * 60] * 4)
    places = ["a/b_c.png", "a_b/c.png", f"{deep}/1/c.png", f"{deep}/2/c.png"]
    for seed, place in enumerate(places):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / place), blob(seed))
    rows = screen(trained, tmp_path, heatmaps=tmp_path / "out")
    names = [row["heatmap"] for row in rows.values()]
    assert len(set(names)) == len(list((tmp_path / "out").iterdir())) == 4
    for name, row in zip(names, rows, strict=True):
        assert (tmp_path / "out" / name).stat().st_size > 1000
        assert name.startswith(row.rpartition("/")[2] + "_")


def test_a_name_that_is_not_utf_8_loses_no_row(trained, tmp_path, command):
    cv2.imwrite(str(tmp_path / "z.png"), blob(1))
    strange = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(tmp_path / "z.png", strange)
    (tmp_path / os.fsdecode(b"bad\xff.png")).write_bytes(b"no image")
    process = command(
        "predict",
        f"--workdir={trained}",
        "--heatmaps",
        f"--output={tmp_path / 'out'}",
        tmp_path,
        check=False,
        PYTHONIOENCODING="ascii",
    )
    assert process.returncode == 1
    rows = list(csv.DictReader(io.StringIO(process.stdout)))
    assert [row["id"].rpartition("/")[2] for row in rows] == [
        "bad\\xff.png",
        "caf\\xe9.png",
        "z.png",
    ]
    assert [bool(row["error"]) for row in rows] == [True, False, False]
    assert rows[1]["probability"] == rows[2]["probability"] != ""


def test_a_volume_has_a_row_a_slice_and_one_for_all(trained, tmp_path):
    values = [blob(i, i % 2).astype(np.float32) for i in range(6)]
    hu = np.stack(values) * (1500 / 255) - 1350
    np.save(tmp_path / "v.npy", np.round(hu).astype(np.int16))
    rows = screen(trained, tmp_path / "v.npy", every=2)
    names = [f"{tmp_path / 'v.npy'}#{i:04d}" for i in (0, 2, 4)]
    assert list(rows) == [*names, f"volume {tmp_path / 'v.npy'}"]
    expected = predictor.load(trained).probabilities([v.astype(np.uint8) for v in values[::2]])
    found = [float(rows[name]["probability"]) for name in names]
    np.testing.assert_allclose(found, expected[:, 0], atol=0.02)
    whole = rows[f"volume {tmp_path / 'v.npy'}"]
    assert whole["images"] == 3
    assert float(whole["probability"]) == pytest.approx(np.mean(found), abs=1e-6)
    # Through another window it is another picture.
    narrow = screen(trained, tmp_path / "v.npy", every=2, window=(40.0, 400.0))
    assert narrow[names[0]]["probability"] != rows[names[0]]["probability"]


def test_means_are_of_axial_slices_of_one_person(trained, tmp_path, caplog):
    studies = [generate_uid() for _ in range(4)]
    series = [generate_uid() for _ in range(4)]
    for i in range(2):
        write_dicom(tmp_path / f"a{i}", i, patient="P-1", study=studies[0], series=series[0])
        write_dicom(
            tmp_path / f"b{i}", i, patient="ANON", study=studies[1 + i], series=series[1 + i]
        )
    write_dicom(
        tmp_path / "scout",
        9,
        patient="P-1",
        study=studies[0],
        series=series[0],
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
    )
    write_dicom(
        tmp_path / "coronal",
        9,
        patient="P-1",
        study=studies[0],
        series=series[0],
        ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
    )
    rows = screen(trained, tmp_path)
    assert len(rows) == 4 + 2
    assert rows[f"series {series[0]}"]["images"] == 2
    assert rows["patient P-1"]["images"] == 2
    assert "PatientID 'ANON' stands for 2 images of 2 studies" in caplog.text
    assert "Left out: 1 scouts (localizers), 1 slices that are not axial" in caplog.text


def test_one_id_for_all_studies_makes_no_mean(trained, tmp_path, caplog):
    for i in range(3):
        write_dicom(
            tmp_path / f"{i}", i, patient="Z17", study=generate_uid(), series=generate_uid()
        )
    assert len(screen(trained, tmp_path)) == 3
    assert "PatientID 'Z17' stands for 3 images of 3 studies" in caplog.text


def test_pseudonyms_stand_for_patients_and_series(trained, tmp_path, caplog):
    (tmp_path / "key").write_bytes(bytes(32))
    study, series = generate_uid(), generate_uid()
    for i in range(2):
        write_dicom(tmp_path / "Mueller" / f"{i}", i, patient="MUELLER", study=study, series=series)
    rows = screen(trained, tmp_path / "Mueller", pseudonyms=tmp_path / "key")
    patients = {row["patient"] for row in rows.values()}
    assert len(patients) == 1
    assert "MUELLER" not in str([{**row, "id": ""} for row in rows.values()])
    assert series not in str(rows)
    assert f"patient {patients.pop()}" in rows
    assert "2 paths hold the PatientID" in caplog.text


def test_objects_without_pixels_are_left_out_and_counted(trained, tmp_path, command):
    write_dicom(tmp_path / "IM0", 0, patient="P-1")
    report = pydicom.dcmread(tmp_path / "IM0")
    for name in ("Rows", "Columns", "PixelData"):
        delattr(report, name)
    report.Modality = "SR"
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.save_as(tmp_path / "SR1")
    process = command("predict", f"--workdir={trained}", tmp_path)
    assert len(process.stdout.splitlines()) == 2
    assert "Left out: 1 objects without pixels (SR)" in process.stderr
