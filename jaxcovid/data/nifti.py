"""NIfTI: headers, and the way between the axes of a file and the radiological view.

Source of the format: https://nifti.nimh.nih.gov/nifti-1 (header fields, qform and sform).
"""

import gzip
import pathlib
from typing import IO, Any

import numpy as np

from jaxcovid.data.image_error import ImageError

SUFFIXES = (".nii", ".nii.gz")

_LONGEST_HEADER = 540  # bytes, of NIfTI-2


def open_unpacked(path: pathlib.Path) -> IO[bytes]:
    """Opens a file for reading, one whose name ends in `.gz` unpacked."""
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def read_header(file: IO[bytes]) -> tuple[Any, bytes]:
    """Reads the header of a NIfTI file of one volume.

    Args:
      file: unpacked, at its start.

    Returns:
      A `nibabel.Nifti1Header` or its NIfTI-2 form, and the bytes that were read.

    Raises:
      ImageError: no NIfTI, no single volume of numbers, or its affine does not say where left and
        right are.
    """
    import nibabel

    try:
        head = file.read(_LONGEST_HEADER)
        nifti2 = head[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # 540, the size of its header
        kind = nibabel.Nifti2Header if nifti2 else nibabel.Nifti1Header
        header = kind(head[: kind.template_dtype.itemsize])
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
        int(header.get_data_offset()), header.get_slope_inter()  # raise where they are damaged
        affine = header.get_best_affine()
        placed = int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0
        single = header["magic"].item()[:2] == b"n+"
    except Exception as error:  # damaged headers raise whatever their parser meets
        raise ImageError(f"no readable NIfTI file ({error}); save it anew") from error
    sides = three_sides(shape)
    if min(sides) < 1 or max(shape[3:], default=1) > 1 or dtype.kind not in "iuf" or not single:
        raise ImageError(
            f"NIfTI of {dtype} of shape {(*sides, *shape[3:])} is no single volume of gray values; "
            "save it as [x, y, z] in one .nii file"
        )
    if not placed:
        raise ImageError(
            "NIfTI with neither qform nor sform does not say where left and right are; save it "
            "with the affine of the scan"
        )
    turned = np.linalg.svd(affine[:3, :3] if np.isfinite(affine).all() else np.zeros((3, 3)))
    if turned.S[-1] < 1e-6 * max(turned.S[0], 1e-6):
        raise ImageError("NIfTI whose affine leads nowhere; save it with that of the scan")
    return header, head


def three_sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The first three sides of the shape of a file; of a file of fewer axes the others are 1."""
    return (*map(int, shape[:3]), *[1] * (3 - len(shape)))


def to_view(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Brings an array to the radiological view, along the axes closest to those of its affine.

    Args:
      values: [x, y, z] in the axes of the file.
      affine: [4, 4], from them to the patient's right, front and head.

    Returns:
      [slices, h, w]: axial slices from feet to head, the patient's right at the left and the front
      at the top; a view of the same memory.
    """
    axes, flips = _axes_and_flips(affine)
    return values.transpose(np.argsort(axes))[flips].T


def from_view(view: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Undoes `to_view`: brings [slices, h, w] to the axes of the file, [x, y, z]."""
    axes, flips = _axes_and_flips(affine)
    return view.T[flips].transpose(axes)


def _axes_and_flips(affine: np.ndarray) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Which axis of the body each axis of a file is; how those of the body are flipped."""
    import nibabel

    orientation = nibabel.io_orientation(affine)  # of each axis of the file: of the body, its sense
    axes = orientation[:, 0].astype(int)
    # A file's senses are to the right, the front and the head.
    senses = orientation[np.argsort(axes), 1] * (-1, -1, 1)
    return axes, tuple(slice(None, None, int(sense)) for sense in senses)
