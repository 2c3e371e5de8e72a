"""Masks of lungs and lesion as files in the form of their input.

A picture gets a PNG, NIfTI and .npy get NIfTI, DICOM gets a DICOM segmentation. PNG and NIfTI hold
labels: 0 neither, 1 lungs, 2 lesion. A voxel of both has the label of the lesion; the segments of a
DICOM segmentation overlap and keep both.
"""

import contextlib
import gzip
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxcovid import __version__
from jaxcovid.data import nifti
from jaxcovid.data.dicom.signature import is_dicom
from jaxcovid.inference import dicom_segmentation
from jaxcovid.inference.overlay import COLOURS
from jaxcovid.runtime.files import is_remote, write_atomically


def check_files(files: Iterable[Path], *, pseudonyms: bool) -> None:
    """Refuses files whose masks cannot be written, before any is made.

    Args:
      files: that will be segmented.
      pseudonyms: identifiers of patients must not be written: a DICOM segmentation without those of
        its images could not be laid over them.

    Raises:
      ValueError: DICOM, if identifiers must not be written or highdicom is missing.
    """
    for path in files:
        with contextlib.suppress(OSError):  # which gets a row with its error
            if suffix_of(path) != ".dcm":
                continue
            if pseudonyms:
                raise ValueError(
                    f"{path}: a DICOM segmentation holds the patient's name and the identifiers of "
                    "its images, which --pseudonyms replaces; leave one of the two out"
                )
            dicom_segmentation.check_installed()


def write_masks(folder: Path, name: str, sources: Sequence[Path], masks: np.ndarray) -> Path:
    """Writes the masks of one picture, volume or DICOM series into one file.

    Args:
      folder: gets the file.
      name: of the file, without its suffix.
      sources: the picture, the volume, or the files of a DICOM series in the order of the masks.
      masks: bool or uint8 of 0 and 1, [slices, h, w, 2], lungs and lesion, in the geometry of
        `volumes.Volume.gray` or `decoding.decode_gray`; all slices of the sources.

    Returns:
      The file: `NAME.png`, `NAME.nii.gz` or `NAME.dcm`.

    Raises:
      ValueError: the masks do not fit the sources, a source would be overwritten, a DICOM file
        lacks what a segmentation needs, or highdicom is missing.
      OSError: a source cannot be read, the file cannot be written.
    """
    _check(masks)
    first = sources[0]
    suffix, encode = _form(first)
    if len(sources) > 1 and suffix != ".dcm":
        raise ValueError(f"{len(sources)} files, the first {first}, are no DICOM series")
    path = folder / f"{name}{suffix}"
    if not is_remote(path) and path.exists() and any(path.samefile(source) for source in sources):
        raise ValueError(f"{path} is an input, which its masks must not replace")
    write_atomically(path, encode(sources, masks))
    return path


def suffix_of(source: Path) -> str:
    """The suffix of the file of masks of a picture, a volume or a DICOM file.

    Raises:
      OSError: it cannot be read.
    """
    return _form(source)[0]


def _form(source: Path) -> tuple[str, Callable[[Sequence[Path], np.ndarray], bytes]]:
    """Suffix and encoder of the file of masks of a file."""
    with source.open("rb") as file:
        if is_dicom(file.read(1024)):
            return ".dcm", dicom_segmentation.encode
    if nifti.is_nifti(source) or source.name.lower().endswith(".npy"):
        return ".nii.gz", _nifti
    return ".png", _palette_png


def _check(masks: np.ndarray) -> None:
    if masks.ndim != 4 or masks.shape[-1] != 2 or masks.dtype not in (np.bool_, np.uint8):
        raise ValueError(
            f"masks are {masks.dtype} {masks.shape}; they must be bool or uint8 [slices, h, w, 2]"
        )
    if masks.max(initial=0) > 1:
        raise ValueError(f"masks hold {masks.max()}; they must hold 0 and 1 alone")


def labels(masks: np.ndarray) -> np.ndarray:
    """Masks [..., h, w, 2] as labels uint8 [..., h, w]: 0 neither, 1 lungs, 2 lesion."""
    lungs, lesion = np.moveaxis(masks, -1, 0)
    numbers = lungs.astype(np.uint8)
    numbers[lesion != 0] = 2
    return numbers


def _palette_png(sources: Sequence[Path], masks: np.ndarray) -> bytes:
    """Labels of one picture as a PNG with a palette: numbers to programs, colours to viewers."""
    if len(masks) != 1:
        raise ValueError(f"{sources[0]} is one picture but has {len(masks)} masks")
    picture = Image.fromarray(labels(masks[0])).convert("P")
    picture.putpalette([0, 0, 0, *COLOURS["lungs"], *COLOURS["lesion"]])
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


# What of a header says where the voxels are; its texts and extensions may hold a patient's name.
_GEOMETRY = ("pixdim", "dim_info", "xyzt_units", "qform_code", "sform_code")
_GEOMETRY += ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
_GEOMETRY += ("srow_x", "srow_y", "srow_z")


def _nifti(sources: Sequence[Path], masks: np.ndarray) -> bytes:
    """Labels of a volume as NIfTI; the same labels give the same bytes."""
    import nibabel

    (source,) = sources
    of_array = source.name.lower().endswith(".npy")
    header, values = (_beside_array if of_array else _beside_nifti)(source, labels(masks))
    header.set_data_dtype(np.uint8)
    header["descrip"] = f"jaxcovid {__version__}: 0 neither, 1 lungs, 2 lesion; research use only"
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    return gzip.compress(kind(values, None, header).to_bytes(), mtime=0)


def _beside_nifti(source: Path, slices: np.ndarray) -> tuple[Any, np.ndarray]:
    """A header and labels [slices, h, w] of the shape and affine of their volume in NIfTI."""
    header = nifti.read_header(source)
    values = header.from_view(slices)
    _check_slices(source, values.shape, header.shape)
    geometry = type(header.fields)()
    for key in _GEOMETRY:
        geometry[key] = header.fields[key]
    return geometry, values.reshape(header.fields.get_data_shape())


def _beside_array(source: Path, slices: np.ndarray) -> tuple[Any, np.ndarray]:
    """A header and labels [w, h, slices] of a .npy file; the size of a voxel, not known, is 1."""
    import nibabel

    shape = np.load(source, mmap_mode="r", allow_pickle=False).shape
    _check_slices(source, slices.shape, (1, *shape)[-3:])
    header = nibabel.Nifti1Header()
    # Columns run to the patient's left, rows to the back, slices to the head.
    header.set_sform(np.diag([-1, -1, 1, 1]), code="aligned")
    return header, slices.T


def _check_slices(source: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise ValueError(
            f"{source} has {expected} voxels but its masks {shape}; a file of masks needs those of "
            "all slices (--every=1)"
        )
