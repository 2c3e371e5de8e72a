"""DICOM slices and films, written here, and two real films."""

import concurrent.futures
import io
import logging
import os
import pathlib
import re
import resource
import struct
import warnings
import zlib

import cv2
import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_files import CT, as_bytes, compressed, dicom_bytes, functional_groups, item
from pydicom import uid

from jaxcovid import prepare
from jaxcovid.data import dicom
from jaxcovid.data.decoding import ImageError, decode_gray, is_dicom
from jaxcovid.data.hounsfield import LUNG_WINDOW, through_window


def test_ct_goes_through_the_lung_window():
    hounsfield = np.linspace(-2000, 1000, 32 * 32).reshape(32, 32)
    stored = np.rint((hounsfield + 1000) / 2).astype(np.int16)
    result = dicom.read(dicom_bytes(stored, **CT))
    expected = np.clip((2.0 * stored - 1000 + 1350) / 1500, 0, 1) * 255
    np.testing.assert_allclose(result, expected, atol=0.51)
    wide = dicom.read(dicom_bytes(stored, **CT), window=(-500, 3000))
    np.testing.assert_allclose(wide, (2.0 * stored - 1000 + 2000) / 3000 * 255, atol=0.51)
    np.testing.assert_array_equal(decode_gray(dicom_bytes(stored, **CT)), result)


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


# The units of a CT.


@pytest.mark.parametrize("missing", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("value", [None, "", "-1024,0", "1\\2"])
def test_a_ct_without_one_rescale_value_is_refused(missing, value):
    """Neither was applied, and a slice without intercept was nearly white."""
    tags = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024}
    whole = pydicom.dcmread(io.BytesIO(dicom_bytes(PIXELS, **tags)))
    del whole[missing]
    data = as_bytes(whole)
    if value is not None:
        data = with_text(data, missing, value)
    name = {"RescaleSlope": "0028,1053", "RescaleIntercept": "0028,1052"}[missing]
    with pytest.raises(ImageError, match=rf"{missing} \({name}\)"):
        decode_gray(data)


def with_text(data, keyword, value, vr=b"DS"):
    """The file with an element of any text, which pydicom would not write."""
    whole = pydicom.dcmread(io.BytesIO(data))
    whole.add_new(keyword, "LT", value)
    tag = pydicom.datadict.tag_for_keyword(keyword)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    return as_bytes(whole).replace(head + b"LT", head + vr)


def test_a_ct_with_a_table_of_hounsfield_units_is_read():
    hounsfield = np.linspace(-1400, 100, 1024).astype(np.int16)
    table = item(LUTDescriptor=[1024, 0, 16], ModalityLUTType="HU")
    table.add_new("LUTData", "OW", hounsfield.tobytes())
    result = decode_gray(dicom_bytes(PIXELS, Modality="CT", ModalityLUTSequence=[table]))
    np.testing.assert_array_equal(result, through_window(hounsfield[PIXELS], LUNG_WINDOW))
    table.ModalityLUTType = "OD"
    with pytest.raises(ImageError, match=r"ModalityLUTType \(0028,3001|3004\) is 'OD'"):
        decode_gray(dicom_bytes(PIXELS, Modality="CT", ModalityLUTSequence=[table]))


@pytest.mark.parametrize("place", ["Shared", "PerFrame"])
def test_functional_groups_of_an_enhanced_object_are_read(place):
    groups = {f"{place}FunctionalGroupsSequence": [functional_groups(slope=2, intercept=-1000)]}
    enhanced = decode_gray(dicom_bytes(PIXELS, Modality="CT", **groups))
    np.testing.assert_array_equal(enhanced, decode_gray(dicom_bytes(PIXELS, **CT)))
    groups = {f"{place}FunctionalGroupsSequence": [functional_groups(window=(512, 256))]}
    enhanced = decode_gray(dicom_bytes(PIXELS, Modality="XA", **groups))
    plain = dicom_bytes(PIXELS, Modality="XA", WindowCenter=512, WindowWidth=256)
    np.testing.assert_array_equal(enhanced, decode_gray(plain))


@pytest.mark.parametrize(
    ("pixels", "padding", "tags"),
    [
        (PIXELS, 63536, {"PixelPaddingValue": 63536}),
        (PIXELS, 63536, {"PixelPaddingValue": 63536, "BitsStored": 12, "HighBit": 11}),
        (PIXELS, 63000, {"PixelPaddingValue": 63536, "PixelPaddingRangeLimit": 62000}),
        (PIXELS.astype(np.int16), 5000, {"PixelPaddingValue": 5000}),
        (
            PIXELS.astype(np.int16),
            5001,
            {"PixelPaddingValue": 5000, "PixelPaddingRangeLimit": 6000},
        ),
    ],
)
def test_padding_of_ct_is_black(pixels, padding, tags):
    padded = pixels.copy()
    padded[:4] = padding
    padding_vr = "SS" if pixels.dtype.kind == "i" else "US"
    whole = pydicom.dcmread(io.BytesIO(dicom_bytes(padded, **CT)))
    for name, value in tags.items():
        whole.add_new(name, padding_vr if "Padding" in name else "US", value)
    result, plain = decode_gray(as_bytes(whole)), decode_gray(dicom_bytes(pixels, **CT))
    assert not result[:4].any()
    np.testing.assert_array_equal(result[4:], plain[4:])


def test_signed_padding_of_unsigned_pixels_is_known():
    padded = PIXELS.copy()
    padded[:4] = 63536
    whole = pydicom.dcmread(io.BytesIO(dicom_bytes(padded, **CT)))
    whole.add_new("PixelPaddingValue", "SS", -2000)
    assert not decode_gray(as_bytes(whole))[:4].any()


def test_bits_end_at_the_high_bit():
    plain = dicom_bytes(PIXELS, **CT, BitsStored=12, HighBit=11)
    moved = dicom_bytes(PIXELS << 4, **CT, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(decode_gray(moved), decode_gray(plain))
    with pytest.raises(ImageError, match=r"HighBit \(0028,0102\) is 15 where BitsStored"):
        decode_gray(dicom_bytes(PIXELS, **CT, BitsStored=12, HighBit=15))
    signed = np.where(PIXELS % 2, PIXELS, -PIXELS.astype(int)).astype(np.int16)
    # The bits above those stored may hold anything.
    twelve = (signed.view(np.uint16) & 0xFFF | 0x5000).view(np.int16)
    np.testing.assert_array_equal(
        decode_gray(dicom_bytes(twelve, **CT, BitsStored=12, HighBit=11)),
        decode_gray(dicom_bytes(signed, **CT)),
    )


# The gray range of a film.

FILM = (500 + 3 * np.arange(64 * 64).reshape(64, 64) % 3500).astype(np.uint16)


def film(pixels=FILM, **tags):
    return decode_gray(dicom_bytes(pixels, Modality="DX", **tags))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("colours", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_of_a_film_is_black_and_takes_no_part(colours, signed):
    pixels = FILM.astype(np.int16) - 1000 if signed else FILM
    padding = -30000 if signed else 65535
    padded = pixels.copy()
    padded[:12] = padding
    whole = dicom_bytes(padded, Modality="DX", PhotometricInterpretation=colours)
    whole = pydicom.dcmread(io.BytesIO(whole))
    whole.add_new("PixelPaddingValue", "SS" if signed else "US", padding)
    result = decode_gray(as_bytes(whole))
    plain = film(pixels, PhotometricInterpretation=colours)
    assert not result[:12].any()
    np.testing.assert_array_equal(result[12:], plain[12:])
    assert (plain.min(), plain.max()) == (0, 255)


def test_outliers_leave_a_film_its_range():
    """A hot pixel, a burnt-in marker and a dead pixel set the range, and left 0 to 15 of 255."""
    plain = film()
    for value, part in ((65535, np.s_[5, 5]), (65535, np.s_[2:9, 2:9]), (65535, np.s_[3, :50])):
        marked = FILM.copy()
        marked[part] = value
        result = film(marked)
        assert (result[part] == 255).all()
        result[part] = plain[part]
        np.testing.assert_array_equal(result, plain)
    dead = FILM.astype(np.int16)
    dead[7, 7] = -30000
    result = film(dead)
    assert result[7, 7] == 0
    result[7, 7] = plain[7, 7]
    np.testing.assert_array_equal(result, plain)


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(0, 4095, 4096),
        2000 + 300 * np.random.default_rng(0).normal(size=4096),
        np.repeat([0, 4095], [3900, 196]),
        np.repeat([0, 4095], [3, 4093]),
    ],
    ids=["even", "normal", "dark", "two values, one rare"],
)
def test_a_film_without_outliers_keeps_all_of_its_range(values):
    stored = values.round().astype(np.uint16).reshape(64, 64)
    low, high = float(stored.min()), float(stored.max())
    expected = (stored - low) * 255 / (high - low)
    np.testing.assert_allclose(film(stored), expected, atol=0.51)


def test_windows_follow_their_function():
    values = FILM.astype(float)
    window = {"WindowCenter": 2000, "WindowWidth": 1000}
    exact = np.clip((values - 2000) / 1000 + 0.5, 0, 1) * 255
    np.testing.assert_allclose(film(**window, VOILUTFunction="LINEAR_EXACT"), exact, atol=0.51)
    linear = np.clip((values - 1999.5) / 999 + 0.5, 0, 1) * 255
    np.testing.assert_allclose(film(**window), linear, atol=0.51)
    curve = 1 / (1 + np.exp(-4 * (values - 2000) / 1000))
    curve = (curve - curve.min()) / (curve.max() - curve.min()) * 255
    np.testing.assert_allclose(film(**window, VOILUTFunction="SIGMOID"), curve, atol=0.51)
    several = {"WindowCenter": [2000, 40], "WindowWidth": [1000, 400]}
    np.testing.assert_array_equal(film(**several), film(**window))
    thin = film(WindowCenter=2000, WindowWidth=1)
    np.testing.assert_array_equal(thin, 255 * (FILM >= 2000))


def test_a_table_in_place_of_a_window_is_read():
    """Of 8 bits too, whose 4,096 entries one library counts modulo 256."""
    curve = (255 * np.sqrt(np.arange(4096) / 4095)).round()
    for depth, vr, data in (
        (8, "OW", curve.astype(np.uint8).tobytes()),
        (8, "OW", curve.astype(np.uint16).tobytes()),
        (16, "US", curve.astype(int).tolist()),
    ):
        table = item(LUTDescriptor=[4096, 0, depth])
        table.add_new("LUTData", vr, data)
        shown = curve[FILM]
        expected = (shown - shown.min()) / (shown.max() - shown.min()) * 255
        np.testing.assert_allclose(film(VOILUTSequence=[table]), expected, atol=0.51)
    table.LUTData = table.LUTData[:99]
    with pytest.raises(ImageError, match=r"LUTData \(0028,3006\) has 99 of 4,096 entries"):
        film(VOILUTSequence=[table])


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({"WindowCenter": 0, "WindowWidth": 0}, "WindowWidth"),
        ({"WindowCenter": 500, "WindowWidth": -100}, "WindowWidth"),
        ({"WindowCenter": 500}, "WindowWidth"),
        ({"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "VOILUTFunction"),
        ({"RescaleSlope": 2}, "RescaleIntercept"),
    ],
)
def test_a_window_that_is_none_is_refused(tags, name):
    with pytest.raises(ImageError, match=rf"{name} \(0028"):
        film(**tags)


def test_low_values_are_white_where_the_file_says_so():
    plain = film()
    tags = {"PresentationLUTShape": "INVERSE"}
    np.testing.assert_array_equal(film(**tags), 255 - plain)
    # The standard asks for both together: they are one inversion.
    tags["PhotometricInterpretation"] = "MONOCHROME1"
    np.testing.assert_array_equal(film(**tags), 255 - plain)
    np.testing.assert_array_equal(film(PresentationLUTShape="IDENTITY"), plain)


# What is no picture to screen.

CORONAL, TILTED = [1, 0, 0, 0, 0, -1], [1, 0, 0, 0, np.cos(np.pi / 6), -np.sin(np.pi / 6)]


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "scouts (localizers)"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}, ""),
        ({"ImageOrientationPatient": CORONAL}, "slices that are not axial"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "slices that are not axial"),
        ({"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]}, ""),
        ({"ImageOrientationPatient": [f"{x:.6f}" for x in TILTED]}, ""),
        ({"ImageOrientationPatient": [0] * 6}, ""),
        ({"Modality": "DX", "ImageOrientationPatient": CORONAL}, ""),
        (
            {"SharedFunctionalGroupsSequence": [functional_groups(orientation=CORONAL)]},
            "slices that are not axial",
        ),
    ],
)
def test_scouts_and_other_planes_are_left_out(tags, reason, tmp_path):
    (tmp_path / "x").write_bytes(dicom_bytes(PIXELS, **{**CT, **tags}))
    assert dicom.header_of(tmp_path / "x").left_out == reason


def test_objects_without_pixels_are_named(tmp_path):
    (tmp_path / "x").write_bytes(dicom_bytes(Modality="SR", PatientID="7"))
    header = dicom.header_of(tmp_path / "x")
    assert header == dicom.Header("SR", "7", "", left_out="objects without pixels (SR)")
    (tmp_path / "x").write_bytes(dicom_bytes(DirectoryRecordSequence=[item(PatientID="7")]))
    assert dicom.header_of(tmp_path / "x").left_out == "DICOMDIR"
    with pytest.raises(ImageError, match="a DICOMDIR"):
        decode_gray((tmp_path / "x").read_bytes())


# Files that are compressed, incomplete or bare.


def lossless(pixels, predictor=1):
    return imagecodecs.jpeg8_encode(
        pixels, lossless=True, predictor=predictor, bitspersample=8 * pixels.itemsize
    )


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (uid.JPEGLosslessSV1, imagecodecs.ljpeg_encode),
        (uid.JPEGLosslessSV1, lossless),
        (uid.JPEGLossless, lambda pixels: lossless(pixels, predictor=6)),
        (uid.JPEGLSLossless, imagecodecs.jpegls_encode),
        (uid.JPEG2000Lossless, lambda pixels: imagecodecs.jpeg2k_encode(pixels, level=0)),
    ],
    ids=["another encoder", "SV1", "process 14", "JPEG-LS", "JPEG 2000"],
)
def test_lossless_slices_are_those_that_were_compressed(syntax, encode):
    noise = np.random.default_rng(0).integers(0, 4096, (32, 40)).astype(np.uint16)
    tags = {"shape": noise.shape, **CT}
    packed = compressed(bytes(encode(noise)), syntax, bits=16, **tags)
    np.testing.assert_array_equal(decode_gray(packed), decode_gray(dicom_bytes(noise, **CT)))
    signed = (noise.astype(np.int16) - 2048).view(np.uint16)
    tags["PixelRepresentation"] = 1
    packed = compressed(bytes(encode(signed)), syntax, bits=16, **tags)
    plain = dicom_bytes(signed.view(np.int16), **CT)
    np.testing.assert_array_equal(decode_gray(packed), decode_gray(plain))


def test_a_film_of_12_bits_in_jpeg_is_read():
    smooth = cv2.resize(np.arange(16, dtype=np.uint16).reshape(4, 4) * 250, (64, 64))
    frame = imagecodecs.jpeg8_encode(smooth, bitspersample=12, level=98)
    result = decode_gray(compressed(frame, uid.JPEGExtended12Bit, bits=16, shape=(64, 64)))
    np.testing.assert_allclose(result, film(smooth), atol=2)


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (uid.JPEGLosslessSV1, lossless),
        (uid.JPEGLSLossless, imagecodecs.jpegls_encode),
        (uid.JPEG2000Lossless, imagecodecs.jpeg2k_encode),
    ],
)
def test_a_frame_larger_than_the_header_says_is_not_unpacked(syntax, encode):
    frame = bytes(encode(np.zeros((6000, 6000), np.uint16)))
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="6000 x 6000 px where the DICOM header says 32 x 32"):
        decode_gray(compressed(frame, syntax, bits=16))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 30_000
    small = bytes(encode(np.arange(1024, dtype=np.uint16).reshape(32, 32)))
    with pytest.raises(ImageError, match="cut short"):
        decode_gray(compressed(small[: len(small) // 2], syntax, bits=16))


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("start", ["meta", "nothing", "preamble"])
def test_files_without_preamble_or_meta_header_are_read(start, implicit, tmp_path):
    syntax = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
    data = dicom_bytes(PIXELS, syntax=syntax, PatientID="7", SOPClassUID="1.2", **CT)
    body = data[132 + 12 + int.from_bytes(data[140:144], "little") :]
    bare = {"meta": data[132:], "nothing": body, "preamble": data[:132] + body}[start]
    assert is_dicom(bare)
    assert is_dicom(bare[:1024])
    np.testing.assert_array_equal(decode_gray(bare), decode_gray(data))
    (tmp_path / "x").write_bytes(bare)
    assert dicom.header_of(tmp_path / "x") == dicom.Header("CT", "7", "")


def test_other_files_are_not_taken_for_dicom():
    rng = np.random.default_rng(0)
    texts = [b"", b"path,label\n", b"\x08\0", b"\x08\0\0\0" * 99, b"\x02\0\0\0UL", bytes(1024)]
    numbers = [np.arange(8, 300, dtype="<i4").tobytes(), np.arange(2, 300, dtype="<i2").tobytes()]
    noise = [rng.bytes(1024) for _ in range(2000)]
    starts = [b"\x08\0" + rng.bytes(1022) for _ in range(2000)]
    assert not any(map(is_dicom, [*texts, *numbers, *noise, *starts]))


@pytest.mark.parametrize(
    "keyword",
    [
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "Rows",
        "BitsAllocated",
        "BitsStored",
        "PixelRepresentation",
    ],
)
def test_a_missing_element_is_named(keyword):
    whole = pydicom.dcmread(io.BytesIO(dicom_bytes(PIXELS, **CT)))
    del whole[keyword]
    with pytest.raises(ImageError, match=rf"the DICOM element {keyword} \(0028,\d+\) is missing"):
        decode_gray(as_bytes(whole))


def test_a_bad_element_is_named():
    cut = dicom_bytes(PIXELS[:30].copy(), Rows=32, **CT)
    with pytest.raises(ImageError, match=r"PixelData \(7FE0,0010\) has 1,920 bytes, 2,048 are"):
        decode_gray(cut)
    for tags in ({"BitsAllocated": 12}, {"BitsStored": 17}, {"PixelRepresentation": 2}):
        with pytest.raises(ImageError, match=rf"{next(iter(tags))} \(0028"):
            decode_gray(dicom_bytes(PIXELS, **CT, **tags))
    frames = [lossless(PIXELS)] * 2
    with pytest.raises(ImageError, match=r"NumberOfFrames \(0028,0008\) is 3, but .* of 2"):
        decode_gray(compressed(frames, uid.JPEGLosslessSV1, bits=16, NumberOfFrames=3))


# Warnings.


def test_warnings_come_once_for_each_kind(tmp_path, caplog):
    paths = [tmp_path / f"{i}.dcm" for i in range(20)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, path in enumerate(paths):
            data = dicom_bytes(PIXELS, **CT, PatientID=str(i))
            path.write_bytes(with_text(data, "SeriesInstanceUID", f"1.{i}.x", vr=b"UI"))
    with warnings.catch_warnings(record=True) as others, caplog.at_level("WARNING"):
        warnings.simplefilter("always")
        with dicom.counted_warnings():
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                assert all(pool.map(dicom.header_of, paths))
            logging.getLogger("pydicom").warning("Expected explicit VR")
            warnings.warn("another", UserWarning, stacklevel=1)
            assert not caplog.records
    assert [str(other.message) for other in others] == ["another"]
    lines = sorted(record.getMessage() for record in caplog.records)
    assert len(lines) == 2
    assert lines[0] == "DICOM, 1 times: Expected explicit VR"
    start = re.escape(f"DICOM, 20 times, for example of {tmp_path}/")
    assert re.match(start + r"\d+\.dcm: Invalid value for VR UI: \.\.\.", lines[1])
    caplog.clear()
    with dicom.counted_warnings():
        decode_gray(dicom_bytes(PIXELS, **CT))
    assert not caplog.records


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
        film, dataset = dicom.read(path.read_bytes()), pydicom.dcmread(path)
        assert film.shape == (1024, 1024)
        assert dicom.header_of(path).modality == "X-ray"
        # These bring neither window nor rescale: their 8 bits are the picture, or its negative.
        sign = {"MONOCHROME1": -1, "MONOCHROME2": 1}[dataset.PhotometricInterpretation]
        assert np.corrcoef(film.ravel(), dataset.pixel_array.ravel())[0, 1] * sign > 0.999


@pytest.mark.skipif("JAXCOVID_DATA" not in os.environ, reason="JAXCOVID_DATA is not set")
def test_real_slices_in_jpeg_lossless_hold_air_and_lungs():
    root = pathlib.Path(os.environ["JAXCOVID_DATA"]) / "dicom" / "ct-jpeg-lossless"
    paths = sorted(root.rglob("*.dcm"))
    if not paths:
        pytest.skip("JAXCOVID_DATA has no dicom/ct-jpeg-lossless")
    for path in paths:
        assert dicom.header_of(path).left_out == ""
        gray = decode_gray(path.read_bytes(), modality="CT")
        assert gray.shape == (512, 512)
        lungs = ((gray > 0.25 * 255) & (gray < 0.6 * 255)).mean()  # -975 to -450
        assert 0.05 < lungs < 0.9, path
