"""Volumes of NIfTI, .npy and DICOM, written here."""

import gzip
import io
import pickle
import resource

import nibabel
import numpy as np
import pytest
from dicom_files import dicom_bytes, functional_groups
from nibabel.orientations import axcodes2ornt, ornt_transform

from jaxcovid.data import dicom, volumes
from jaxcovid.data.hounsfield import LUNG_WINDOW, through_window
from jaxcovid.data.image_error import ImageError

# Axes to the right, the front and the head, as NIfTI counts them.
BODY = np.random.default_rng(0).integers(-1000, 400, (20, 24, 18)).astype(np.int16)
# Slices from feet to head, the front at the top, the right at the left.
VIEW = BODY[::-1, ::-1].T
AFFINE = np.diag([0.7, 0.7, 5, 1])


def grays(path, **options):
    volume = volumes.open_volume(path, **options)
    return np.stack([volume.gray(index) for index in range(len(volume))])


def is_volume(path):
    return volumes.is_volume(path, dicom.header_of(path))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "ASR", "SPL", "PIR"])
@pytest.mark.parametrize("name", ["scan.nii", "SCAN.NII.GZ"])
def test_nifti_comes_in_the_radiological_view(codes, name, tmp_path):
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    image = nibabel.Nifti1Image(BODY, AFFINE).as_reoriented(turn)
    data = image.to_bytes()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("GZ") else data)
    assert is_volume(tmp_path / name)
    np.testing.assert_array_equal(grays(tmp_path / name), through_window(VIEW, LUNG_WINDOW))


def test_an_oblique_volume_takes_the_closest_axes(tmp_path):
    angle = np.deg2rad(40)
    affine = AFFINE.copy()
    affine[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    nibabel.save(nibabel.Nifti2Image(BODY, affine), tmp_path / "a.nii")
    np.testing.assert_array_equal(grays(tmp_path / "a.nii"), through_window(VIEW, LUNG_WINDOW))


def test_nifti_applies_slope_and_intercept(tmp_path):
    image = nibabel.Nifti1Image(((BODY + 1024) // 2).astype(np.uint16), AFFINE)
    image.header.set_slope_inter(2, -1024)
    data = bytearray(image.to_bytes())
    data[112:120] = np.array([2, -1024], "<f4").tobytes()  # what nibabel would compute anew
    (tmp_path / "a.nii").write_bytes(data)
    expected = through_window((VIEW + 1024) // 2 * 2 - 1024, LUNG_WINDOW)
    np.testing.assert_array_equal(grays(tmp_path / "a.nii"), expected)
    wide = through_window((VIEW + 1024) // 2 * 2 - 1024, (40, 3000))
    np.testing.assert_array_equal(grays(tmp_path / "a.nii", window=(40, 3000)), wide)


@pytest.mark.parametrize("values", [VIEW, VIEW.astype(np.float32), np.asfortranarray(VIEW)])
def test_npy_holds_hounsfield_units(values, tmp_path):
    np.save(tmp_path / "a.npy", values)
    volume = volumes.open_volume(tmp_path / "a.npy", modality="CT")
    assert (len(volume), volume.modality, volume.patient, volume.series) == (18, "CT", "", "")
    np.testing.assert_array_equal(grays(tmp_path / "a.npy"), through_window(VIEW, LUNG_WINDOW))
    np.save(tmp_path / "a.npy", values[3])
    np.testing.assert_array_equal(
        grays(tmp_path / "a.npy")[0], through_window(VIEW[3], LUNG_WINDOW)
    )


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def nifti(array):
    return nibabel.Nifti1Image(array, AFFINE).to_bytes()


def placed_nowhere():
    data = bytearray(nifti(BODY))
    data[252:256] = bytes(4)  # qform_code, sform_code
    return bytes(data)


GRAY = ((BODY + 1000) / 1400 * 255).astype(np.uint8)
BAD = {
    "0..1.npy": (saved(((VIEW + 1000) / 1400).astype(np.float32)), "scaled to 0..1; give Hounsf"),
    "0..255.npy": (saved(GRAY), "through a window before"),
    "0..255.nii": (nifti(GRAY), r"from 0 to 25\d .* through a window before and must not again"),
    "mask.nii": (nifti((BODY > 0).astype(np.uint8)), "a mask"),
    "stored.npy": (saved(VIEW + 1024), r"Hounsfield units \+ 1024"),
    "abdomen.npy": (saved(VIEW.clip(-160, 240)), "from -160 to 240"),
    "nan.npy": (saved(np.where(VIEW > 300, np.nan, VIEW)), "from nan"),
    "objects.npy": (pickle.dumps(VIEW), "no readable .npy"),
    "one.npy": (saved(VIEW[0, 0]), r"shape \(20,\)"),
    "bool.npy": (saved(VIEW > 0), "array of bool"),
    "small.npy": (saved(VIEW[:, :8]), "20 x 8 px is too small"),
    "long header.npy": (saved(VIEW)[:6] + b"\2\0\xff\xff\xff\xff" + bytes(99), "too long"),
    "cut.npy": (saved(VIEW)[:-10], "no readable .npy"),
    "empty.nii": (b"", "no readable NIfTI"),
    "text.nii.gz": (b"version https://git-lfs.github.com/spec/v1\n", "no readable NIfTI"),
    "cut.nii": (nifti(BODY)[:-10], "cut short"),
    "cut.nii.gz": (gzip.compress(nifti(BODY)[:-10]), "unpacks to 17,622 bytes .* needs 17,632"),
    "damaged.nii.gz": (gzip.compress(nifti(BODY))[:-900], "cut short or damaged"),
    "several.nii": (nifti(np.stack([BODY, BODY], 3)), r"\(20, 24, 18, 2\) is no single volume"),
    "placed nowhere.nii": (placed_nowhere(), "neither qform nor sform"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_volume_says_why(name, tmp_path):
    data, reason = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError, match=reason):
        volumes.open_volume(tmp_path / name)


def test_an_xray_network_gets_no_volume_of_ct(tmp_path):
    np.save(tmp_path / "a.npy", VIEW)
    with pytest.raises(ImageError, match="a volume of CT, where X-ray is meant"):
        volumes.open_volume(tmp_path / "a.npy", modality="X-ray")
    (tmp_path / "a").write_bytes(dicom_bytes(np.stack([VIEW[0]] * 3), Modality="CT"))
    with pytest.raises(ImageError, match="modality CT, where X-ray is meant"):
        volumes.open_volume(tmp_path / "a", modality="X-ray")


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    """Neither one that its header admits, nor one that goes on behind what the header says."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((2000, 2000, 1000))
    header["magic"], header["sform_code"], header["vox_offset"] = b"n+1", 1, 352
    header["srow_x"], header["srow_y"], header["srow_z"] = AFFINE[:3]
    data = gzip.compress(header.binaryblock + bytes(2**24))
    (tmp_path / "a.nii.gz").write_bytes(data)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match="a volume of 8,000,000,352 bytes; at most 1,073,741,824"):
        volumes.open_volume(tmp_path / "a.nii.gz")
    file = io.BytesIO()
    with gzip.open(file, "w") as packed:
        packed.write(nifti(BODY))
        for _ in range(256):
            packed.write(bytes(2**20))
    (tmp_path / "a.nii.gz").write_bytes(file.getvalue())
    assert len(grays(tmp_path / "a.nii.gz")) == 18
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 50_000


def test_frames_of_dicom_are_sorted_from_feet_to_head(tmp_path):
    stored = VIEW[:3] + 1000
    group = [
        functional_groups(intercept=-1000 - index, slope=1, position=[0, 0, height])
        for index, height in enumerate((20, -5, 10))
    ]
    tags = {"PatientID": "7", "SeriesInstanceUID": "1.2", "NumberOfFrames": 3}
    data = dicom_bytes(stored, Modality="CT", PerFrameFunctionalGroupsSequence=group, **tags)
    (tmp_path / "scan").write_bytes(data)
    assert is_volume(tmp_path / "scan")
    volume = volumes.open_volume(tmp_path / "scan")
    assert (volume.modality, volume.patient, volume.series) == ("CT", "7", "1.2")
    for index, frame in enumerate((1, 2, 0)):
        expected = through_window(VIEW[frame] - frame, LUNG_WINDOW)
        np.testing.assert_array_equal(volume.gray(index), expected)
    single = dicom_bytes(stored[0], Modality="CT", RescaleSlope=1, RescaleIntercept=0)
    (tmp_path / "scan").write_bytes(single)
    assert not is_volume(tmp_path / "scan")
