"""DICOM slices and films, written here, and two real films."""

import io
import os
import pathlib

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

from jaxcovid import prepare
from jaxcovid.data import dicom
from jaxcovid.data.images import ImageError, decode_gray


def dicom_bytes(pixels=None, *, syntax=ExplicitVRLittleEndian, **tags):
    """A file of 16-bit pixels and tags by keyword; None leaves a tag out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    found = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    if pixels is not None:
        found.Rows, found.Columns = pixels.shape[-2:]
        found.SamplesPerPixel, found.BitsAllocated, found.BitsStored = 1, 16, 16
        found.HighBit, found.PixelRepresentation = 15, int(pixels.dtype.kind == "i")
        found.PhotometricInterpretation = "MONOCHROME2"
        found.PixelData = pixels.tobytes()
        found["PixelData"].VR = "OW"
    for name, value in tags.items():
        setattr(found, name, value)
    file = io.BytesIO()
    found.save_as(file, enforce_file_format=True)
    return file.getvalue()


CT = {"Modality": "CT", "RescaleSlope": 2, "RescaleIntercept": -1000}


def test_ct_goes_through_the_lung_window():
    hounsfield = np.linspace(-2000, 1000, 32 * 32).reshape(32, 32)
    stored = np.rint((hounsfield + 1000) / 2).astype(np.int16)
    found = dicom.read(dicom_bytes(stored, **CT))
    expected = np.clip((2.0 * stored - 1000 + 1350) / 1500, 0, 1) * 255
    np.testing.assert_allclose(found, expected, atol=0.51)
    wide = dicom.read(dicom_bytes(stored, **CT), window=(-500, 3000))
    np.testing.assert_allclose(wide, (2.0 * stored - 1000 + 2000) / 3000 * 255, atol=0.51)
    np.testing.assert_array_equal(decode_gray(dicom_bytes(stored, **CT)), found)


def test_a_header_tells_modality_patient_and_series(tmp_path):
    path = tmp_path / "slice"
    path.write_bytes(dicom_bytes(PatientID="7", SeriesInstanceUID="1.2", Modality="CT"))
    assert dicom.header_of(path) == dicom.Header("CT", "7", "1.2")
    path.write_bytes(dicom_bytes(Modality="CR"))
    assert dicom.header_of(path) == dicom.Header("X-ray", "", "")
    path.write_bytes(b"no DICOM")
    assert dicom.header_of(path) is None


@pytest.mark.parametrize(("modality", "other"), [("CT", "DX"), ("X-ray", "CT")])
def test_another_modality_is_refused(modality, other):
    stored = np.zeros((32, 32), np.uint16)
    tags = CT if other == "CT" else {"Modality": other}
    data = dicom_bytes(stored, **tags)
    assert decode_gray(data).shape == (32, 32)
    kind = {"CT": "CT", "DX": "X-ray"}[other]
    with pytest.raises(ImageError, match=f"modality {kind}, where {modality} is meant"):
        decode_gray(data, modality=modality)


def test_an_xray_keeps_its_range_and_monochrome1_is_inverted():
    stored = (100 + np.arange(1024).reshape(32, 32)).astype(np.uint16)
    film = dicom.read(dicom_bytes(stored, Modality="DX"))
    assert (film[0, 0], film[-1, -1]) == (0, 255)
    tags = {"Modality": "DX", "PhotometricInterpretation": "MONOCHROME1"}
    np.testing.assert_array_equal(dicom.read(dicom_bytes(stored, **tags)), 255 - film)


def test_an_xray_goes_through_its_window():
    stored = np.arange(1024).reshape(32, 32).astype(np.uint16)
    film = dicom.read(dicom_bytes(stored, Modality="CR", WindowCenter=512, WindowWidth=256))
    assert (film[:12] == 0).all()
    assert (film[21:] == 255).all()
    assert 120 < film[16, 0] < 135


PIXELS = np.arange(1024).reshape(32, 32).astype(np.uint16)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dicom_bytes(Modality="SR"), "modality SR without pixels"),
        (dicom_bytes(np.stack([PIXELS] * 3), NumberOfFrames=3, **CT), "3 frames"),
        (dicom_bytes(PIXELS, PhotometricInterpretation="YBR_FULL"), "YBR_FULL"),
        (dicom_bytes(PIXELS, Modality="CT"), "without rescale"),
        (dicom_bytes(PIXELS[:8, :8].copy(), Modality="CR"), "too small"),
        (dicom_bytes(PIXELS, Modality="CR")[:-900], "cannot be read"),
        (b"\0" * 128 + b"DICM" + b"junk" * 40, "damaged|without pixels"),
    ],
)
def test_what_cannot_be_used_says_why(data, message):
    with pytest.raises(ImageError, match=message):
        decode_gray(data)


def test_a_compression_that_cannot_be_read_is_named():
    whole = pydicom.dcmread(io.BytesIO(dicom_bytes(PIXELS, Modality="CR")))
    whole.file_meta.TransferSyntaxUID = JPEG2000Lossless
    whole.PixelData = pydicom.encaps.encapsulate([b"no JPEG 2000"])
    whole["PixelData"].is_undefined_length = True
    file = io.BytesIO()
    whole.save_as(file, enforce_file_format=True)
    with pytest.raises(ImageError, match=r"(?s)JPEG 2000.*uncompressed"):
        decode_gray(file.getvalue())


def test_a_folder_of_series_is_split_by_patient_and_keeps_no_header(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(72):
        folder = tmp_path / "images" / ("covid" if i % 2 else "normal")
        folder.mkdir(parents=True, exist_ok=True)
        stored = rng.integers(0, 1000, (32, 32)).astype(np.int16)
        data = dicom_bytes(stored, PatientID=f"p{i // 3:02d}", PatientName="Doe", **CT)
        (folder / f"{i}.dcm").write_bytes(data)
    dataset = prepare.build("folder/series", tmp_path / "data", source=str(tmp_path / "images"))
    assert sum(dataset.patient_counts.values()) == 24
    record = dataset.source("train")[0]
    assert record["image"].startswith(b"\x89PNG")
    original = (tmp_path / "images" / record["id"]).read_bytes()
    np.testing.assert_array_equal(decode_gray(record["image"]), decode_gray(original))
    window = (-500.0, 3000.0)
    wide = prepare.build(
        "folder/wide", tmp_path / "data", source=str(tmp_path / "images"), window=window
    )
    assert (dataset.modality, wide.modality, wide.window) == ("CT", "CT", window)
    record = wide.source("train")[0]
    original = (tmp_path / "images" / record["id"]).read_bytes()
    expected = decode_gray(original, window=window)
    np.testing.assert_array_equal(decode_gray(record["image"]), expected)
    assert not np.array_equal(expected, decode_gray(original))


@pytest.mark.skipif("JAXCOVID_DATA" not in os.environ, reason="JAXCOVID_DATA is not set")
def test_real_films_follow_their_photometric_interpretation():
    paths = sorted((pathlib.Path(os.environ["JAXCOVID_DATA"]) / "dicom").glob("*.dcm"))
    if not paths:
        pytest.skip("JAXCOVID_DATA has no dicom/*.dcm")
    for path in paths:
        film, found = dicom.read(path.read_bytes()), pydicom.dcmread(path)
        assert film.shape == (1024, 1024)
        assert dicom.header_of(path).modality == "X-ray"
        # These bring neither window nor rescale: their 8 bits are the picture, or its negative.
        sign = {"MONOCHROME1": -1, "MONOCHROME2": 1}[found.PhotometricInterpretation]
        assert np.corrcoef(film.ravel(), found.pixel_array.ravel())[0, 1] * sign > 0.999
