"""Masks written beside pictures and volumes, read back by other libraries."""

import gzip
import itertools

import cv2
import nibabel
import numpy as np
import pytest
from dicom_files import CT, dicom_bytes
from PIL import Image

from jaxcovid.data import volumes
from jaxcovid.inference import mask_files
from jaxcovid.inference.overlay import COLOURS

BODY = np.random.default_rng(0).integers(-1000, 400, (20, 24, 18)).astype(np.int16)
AFFINE = np.diag([0.7, 0.8, 5, 1])
AFFINE[:3, 3] = -31, 12.5, 7
NO_MASKS = np.zeros((1, 20, 20, 2), bool)


def masks_of(path):
    """Masks of a volume that a program would make, from its gray slices alone."""
    volume = volumes.open_volume(path)
    gray = np.stack([volume.gray(index) for index in range(len(volume))])
    return np.stack([gray > 50, gray > 180], axis=-1)


def expected_labels(path):
    """What those masks are, voxel by voxel of the file."""
    hounsfield = np.asarray(nibabel.load(path).dataobj)
    gray = volumes.through_window(hounsfield, volumes.LUNG_WINDOW).reshape(hounsfield.shape)
    return np.where(gray > 180, 2, (gray > 50).astype(np.uint8))


def assert_fits(source, masks):
    """The masks lie on the voxels of their source."""
    image, of_masks = nibabel.load(source), nibabel.load(masks)
    assert of_masks.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(of_masks.dataobj), expected_labels(source))
    np.testing.assert_array_equal(of_masks.affine, image.affine)
    np.testing.assert_array_equal(of_masks.get_qform(), image.get_qform())
    for key in ("qform_code", "sform_code", "pixdim", "xyzt_units"):
        np.testing.assert_array_equal(of_masks.header[key], image.header[key])


ORIENTATIONS = [
    np.stack([axes, senses], axis=1)
    for axes in itertools.permutations(range(3))
    for senses in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda turn: str(turn.tolist()))
def test_masks_of_nifti_lie_on_its_voxels(orientation, tmp_path):
    image = nibabel.Nifti1Image(BODY, AFFINE).as_reoriented(orientation)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    masks = masks_of(tmp_path / "scan.nii.gz")
    written = mask_files.write_masks(tmp_path, "m", [tmp_path / "scan.nii.gz"], masks)
    assert written == tmp_path / "m.nii.gz"
    assert_fits(tmp_path / "scan.nii.gz", written)


def oblique():
    angle = np.deg2rad(30)
    affine = AFFINE.copy()
    affine[1:3, 1:3] @= [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return affine


def two_affines():
    image = nibabel.Nifti1Image(BODY, AFFINE)
    image.set_qform(np.diag([-2, 2, 5, 1]), code=1)
    return image


SPECIAL = {
    "oblique": nibabel.Nifti1Image(BODY, oblique()),
    "NIfTI-2": nibabel.Nifti2Image(BODY, AFFINE),
    "four axes": nibabel.Nifti1Image(BODY[..., None], AFFINE),
    "one slice": nibabel.Nifti1Image(BODY[:, :, :1], AFFINE),
    "qform and sform": two_affines(),
    "big-endian": nibabel.Nifti1Image(
        BODY, AFFINE, nibabel.Nifti1Header(endianness=">", check=False)
    ),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_other_nifti_keeps_its_form(name, tmp_path):
    source = tmp_path / "SCAN.NII"
    source.write_bytes(SPECIAL[name].to_bytes())
    written = mask_files.write_masks(tmp_path, "m", [source], masks_of(source))
    assert_fits(source, written)
    assert type(nibabel.load(written)) is type(nibabel.load(source))


def test_nifti_of_masks_has_no_text_of_its_source(tmp_path):
    image = nibabel.Nifti1Image(BODY, AFFINE)
    for key in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[key] = b"Jane Doe"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    nibabel.save(image, tmp_path / "scan.nii")
    mask_files.check_files([tmp_path / "scan.nii"], pseudonyms=True)
    written = mask_files.write_masks(
        tmp_path, "m", [tmp_path / "scan.nii"], masks_of(tmp_path / "scan.nii")
    )
    content = gzip.decompress(written.read_bytes())
    assert b"Jane" not in content
    assert b"research use only" in content
    again = mask_files.write_masks(
        tmp_path, "n", [tmp_path / "scan.nii"], masks_of(tmp_path / "scan.nii")
    )
    assert again.read_bytes() == written.read_bytes()


@pytest.mark.parametrize("ndim", [2, 3])
def test_masks_of_an_array_are_nifti_in_the_same_view(ndim, tmp_path):
    view = BODY[::-1, ::-1].T
    np.save(tmp_path / "scan.npy", view if ndim == 3 else view[4])
    masks = masks_of(tmp_path / "scan.npy")
    written = nibabel.load(mask_files.write_masks(tmp_path, "m", [tmp_path / "scan.npy"], masks))
    in_body = np.asarray(nibabel.as_closest_canonical(written).dataobj)
    expected = mask_files.labels(masks)
    np.testing.assert_array_equal(in_body[::-1, ::-1].T, expected)
    np.testing.assert_array_equal(np.asarray(written.dataobj).T, expected)


def test_masks_of_a_picture_are_labels_to_programs_and_colours_to_viewers(tmp_path):
    cv2.imwrite(str(tmp_path / "scan.png"), np.zeros((40, 30), np.uint8))
    masks = np.zeros((1, 40, 30, 2), np.uint8)
    masks[0, 5:25, 5:25, 0] = masks[0, 20:30, 10:20, 1] = 1
    written = mask_files.write_masks(tmp_path, "m", [tmp_path / "scan.png"], masks)
    assert written == tmp_path / "m.png"
    labels = np.array(Image.open(written))
    assert (labels[4, 4], labels[6, 6], labels[22, 12], labels[28, 12]) == (0, 1, 2, 2)
    assert np.bincount(labels.ravel()).tolist() == [40 * 30 - 450, 350, 100]
    shown = cv2.imread(str(written))[..., ::-1]
    assert tuple(shown[6, 6]) == COLOURS["lungs"]
    assert tuple(shown[28, 12]) == COLOURS["lesion"]
    assert not shown[4, 4].any()


def test_an_input_is_never_replaced(tmp_path):
    cv2.imwrite(str(tmp_path / "scan.png"), np.zeros((20, 20), np.uint8))
    before = (tmp_path / "scan.png").read_bytes()
    (tmp_path / "link.png").hardlink_to(tmp_path / "scan.png")
    for name in ("scan", "link"):
        with pytest.raises(ValueError, match=f"{name}.png is an input"):
            mask_files.write_masks(tmp_path, name, [tmp_path / "scan.png"], NO_MASKS)
    assert (tmp_path / "scan.png").read_bytes() == before


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros((1, 20, 20), bool), r"bool \(1, 20, 20\); they must be"),
        (np.zeros((1, 20, 20, 2)), "masks are float64"),
        (np.full((1, 20, 20, 2), 255, np.uint8), "masks hold 255"),
        (np.zeros((3, 20, 20, 2), bool), "scan.png is one picture but has 3 masks"),
    ],
)
def test_masks_of_another_form_are_refused(masks, message, tmp_path):
    cv2.imwrite(str(tmp_path / "scan.png"), np.zeros((20, 20), np.uint8))
    with pytest.raises(ValueError, match=message):
        mask_files.write_masks(tmp_path, "m", [tmp_path / "scan.png"], masks)
    assert [path.name for path in tmp_path.iterdir()] == ["scan.png"]


@pytest.mark.parametrize("name", ["scan.nii", "scan.npy"])
def test_a_volume_needs_the_masks_of_all_slices(name, tmp_path):
    if name == "scan.npy":
        np.save(tmp_path / name, BODY[::-1, ::-1].T)
    else:
        nibabel.save(nibabel.Nifti1Image(BODY, AFFINE), tmp_path / name)
    with pytest.raises(ValueError, match=r"those of all slices \(--every=1\)"):
        mask_files.write_masks(tmp_path, "m", [tmp_path / name], masks_of(tmp_path / name)[::2])


def test_several_pictures_are_no_series(tmp_path):
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((20, 20), np.uint8))
    sources = [tmp_path / "a.png", tmp_path / "b.png"]
    with pytest.raises(ValueError, match=r"2 files, the first .*a.png, are no DICOM series"):
        mask_files.write_masks(tmp_path, "m", sources, np.zeros((2, 20, 20, 2), bool))


def test_pseudonyms_refuse_a_file_that_names_the_patient(tmp_path):
    (tmp_path / "scan").write_bytes(dicom_bytes(np.zeros((20, 20), np.uint16), **CT))
    with pytest.raises(ValueError, match="which --pseudonyms replaces"):
        mask_files.check_files([tmp_path / "scan"], pseudonyms=True)
