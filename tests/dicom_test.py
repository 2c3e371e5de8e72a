"""DICOM slices and films, written here, and two real films."""

import io
import os
import pathlib
import resource
import struct
import zlib

import cv2
import numpy as np
import pydicom
import pytest
from dicom_files import compressed, dicom_bytes
from pydicom import uid

from jaxcovid import prepare
from jaxcovid.data import dicom
from jaxcovid.data.images import ImageError, decode_gray

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
    path.write_bytes(dicom_bytes(PIXELS, PatientID="7", SeriesInstanceUID="1.2", Modality="CT"))
    assert dicom.header_of(path) == dicom.Header("CT", "7", "1.2")
    path.write_bytes(dicom_bytes(PIXELS, Modality="CR", NumberOfFrames=1))
    assert dicom.header_of(path) == dicom.Header("X-ray", "", "", frames=1, left_out="")
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


def jpeg(side):
    return cv2.imencode(".jpg", np.zeros((side, side), np.uint8))[1].tobytes()


def run_lengths(runs):
    """One segment of so many runs of 128 equal bytes."""
    return struct.pack("<16I", 1, 64, *[0] * 14) + runs * b"\x81\7"


def deflated(size):
    data = dicom_bytes(PIXELS, syntax=uid.DeflatedExplicitVRLittleEndian, Modality="CR")
    start = len(dicom_bytes(syntax=uid.DeflatedExplicitVRLittleEndian)) - 2  # of the data set
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = [packer.compress(bytes(2**20)) for _ in range(size >> 20)]
    return data[:start] + b"".join(packed) + packer.flush()


def test_compressed_films_are_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    rows = b"".join(b"\x1f" + row.tobytes() for row in noise)
    film = decode_gray(compressed(run_lengths(0) + rows, uid.RLELossless))
    low, high = float(noise.min()), float(noise.max())
    np.testing.assert_allclose(film, (noise - low) * 255 / (high - low), atol=0.51)
    assert decode_gray(compressed(jpeg(32), uid.JPEGBaseline8Bit)).shape == (32, 32)
    data = dicom_bytes(PIXELS, syntax=uid.DeflatedExplicitVRLittleEndian, Modality="CR")
    plain = dicom_bytes(PIXELS, Modality="CR")
    np.testing.assert_array_equal(decode_gray(data), decode_gray(plain))
    (tmp_path / "slice").write_bytes(data)
    assert dicom.header_of(tmp_path / "slice").modality == "X-ray"


def test_a_deflated_file_that_unpacks_to_gigabytes_is_refused_early(tmp_path):
    data = deflated(2**29)
    assert len(data) < 2**20
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="deflated DICOM file of more than 268,435,456 bytes"):
        decode_gray(data)
    (tmp_path / "slice").write_bytes(data)
    assert dicom.header_of(tmp_path / "slice") is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 50_000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dicom_bytes(Modality="SR"), "modality SR without pixels"),
        (dicom_bytes(np.stack([PIXELS] * 3), NumberOfFrames=3, **CT), "3 frames"),
        (dicom_bytes(PIXELS, PhotometricInterpretation="YBR_FULL"), "YBR_FULL"),
        (
            dicom_bytes(PIXELS, Modality="CT"),
            r"RescaleSlope \(0028,1053\) and Rescale",
        ),
        (dicom_bytes(PIXELS[:8, :8].copy(), Modality="CR"), "too small"),
        (
            dicom_bytes(PIXELS, Modality="CR")[:-900],
            "has 1,148 bytes, 2,048 are",
        ),
        (dicom_bytes(PIXELS, Modality="CR", Rows=9000, Columns=9000), "81,000,000 pixels; at most"),
        (
            dicom_bytes(PIXELS, Modality="CR", WindowCenter=5, WindowWidth=0),
            r"1051\) 0.0 are no w",
        ),
        (
            dicom_bytes(PIXELS, Modality="CT", RescaleSlope=1, RescaleIntercept="nan"),
            "'nan', no finite number",
        ),
        (
            compressed(jpeg(9000), uid.JPEGBaseline8Bit),
            "pixels of 9000 x 9000 px where",
        ),
        (compressed(run_lengths(10**5), uid.RLELossless), "unpack to more than the header says"),
        (b"\0" * 128 + b"DICM" + b"junk" * 40, "damaged|without pixels"),
    ],
)
def test_what_cannot_be_used_says_why(data, message):
    with pytest.raises(ImageError, match=message):
        decode_gray(data)


def test_a_compression_that_cannot_be_read_is_named():
    whole = pydicom.dcmread(io.BytesIO(dicom_bytes(PIXELS, Modality="CR")))
    whole.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
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
