"""Small scans with masks, for the builders of data sets of volumes."""

import nibabel
import numpy as np

AFFINE = np.diag([0.8, 0.8, 5.0, 1.0])  # to the right, the front and the head
SIDE, SLICES = 32, 6


def scan(seed=0):
    """Hounsfield units [x, y, z] of a body with lungs, and the masks of lungs and lesion."""
    rng = np.random.default_rng(seed)
    values = np.full((SIDE, SIDE, SLICES), 40.0) + rng.normal(0, 9, (SIDE, SIDE, SLICES))
    lungs = np.zeros(values.shape, bool)
    lungs[4:14, 8:26] = lungs[18:28, 8:26] = True
    values[lungs] -= 880
    lesion = np.zeros(values.shape, bool)
    lesion[20:26, 9:13, 2:5] = True  # on the right at the back, not in all slices
    values[lesion] += 600
    return np.rint(values).astype(np.int16), lungs, lesion


def view(values):
    """What is stored along `AFFINE` in the radiological view, [slices, h, w]."""
    return values[::-1, ::-1].T


def save(path, values, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
