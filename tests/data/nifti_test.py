"""Whether the voxels of masks are those of their scan."""

import numpy as np
import pytest
from mask_trees import AFFINE, SLICES, save, scan, view

from jaxcovid.data import nifti, volumes
from jaxcovid.data.image_error import ImageError

VALUES, LUNGS, _ = scan()


def moved(mm):
    affine = AFFINE.copy()
    affine[:3, 3] += mm
    return affine


@pytest.fixture
def paths(tmp_path):
    save(tmp_path / "scan.nii.gz", VALUES)
    return tmp_path / "masks.nii", tmp_path / "scan.nii.gz"


def test_masks_are_in_the_view_of_their_scan(paths):
    masks, scan_path = paths
    save(masks, LUNGS, moved((0.1, 0, 0)))  # less than half a voxel
    found = volumes.open_masks(masks, scan_path)
    assert len(found) == nifti.read_header(scan_path).slices == SLICES
    np.testing.assert_array_equal(np.stack([*found]) != 0, view(LUNGS))


@pytest.mark.parametrize(
    ("values", "affine", "message"),
    [
        (LUNGS[:-1], AFFINE, r"masks of \(31, 32, 6\) voxels, the scan has \(32, 32, 6\)"),
        (LUNGS, moved((0.5, 0, 0)), "0.5 mm apart, a voxel has 0.8 mm"),
        (LUNGS, AFFINE * [[1.02], [1], [1], [1]], "up to 0.496 mm apart"),
        (LUNGS, AFFINE * [[-1], [1], [1], [1]], "axes of the masks are not those"),
    ],
)
def test_masks_of_something_else_are_refused(values, affine, message, paths):
    masks, scan_path = paths
    save(masks, values, affine)
    with pytest.raises(ImageError, match=message):
        volumes.open_masks(masks, scan_path)


def test_origin_and_spacing_may_be_lost_where_that_is_said(paths):
    masks, scan_path = paths
    save(masks, LUNGS, np.diag([1.0, 1, 1, 1]))
    assert len(volumes.open_masks(masks, scan_path, same_affine=False)) == SLICES
    save(masks, LUNGS, np.diag([-1.0, 1, 1, 1]))
    with pytest.raises(ImageError, match="axes"):
        volumes.open_masks(masks, scan_path, same_affine=False)


def test_gray_levels_are_shown_as_they_are(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, VALUES.shape, np.uint8)
    save(tmp_path / "a.nii", levels)
    volume = volumes.open_volume(tmp_path / "a.nii", gray_levels=True)
    shown = np.stack([volume.gray(index) for index in range(len(volume))])
    np.testing.assert_array_equal(shown, view(levels))
    save(tmp_path / "b.nii", VALUES)
    with pytest.raises(ImageError, match="are no gray levels, 0 to 255"):
        volumes.open_volume(tmp_path / "b.nii", gray_levels=True)
