"""Volumes, read slice by slice: NIfTI, arrays of Hounsfield units, DICOM of several frames."""

import abc
import pathlib
from typing import Any

import numpy as np

from jaxcovid.data import dicom
from jaxcovid.data.dicom.elements import macro
from jaxcovid.data.dicom.header import height_of
from jaxcovid.data.dicom.warning_counts import reading
from jaxcovid.data.hounsfield import LUNG_WINDOW, check_hounsfield, through_window
from jaxcovid.data.image_error import ImageError, check_size, read_file
from jaxcovid.data.nifti import (
    Slices,
    check_grid,
    check_volume_bytes,
    is_nifti,
    open_nifti,
    read_header,
)

MAX_SLICES = 10_000

_NPY_HEADER = 10_000  # bytes; NumPy refuses more too, after it has read them
_GRAY_LEVELS = (127.5, 255.0)  # the window that changes none


class Volume(abc.ABC):
    """Slices of one scan.

    Attributes:
      modality: "CT", or what a DICOM file says (see `dicom.Header`).
      patient: id of a DICOM file, else empty.
      series: unique identifier of a DICOM file, else empty.
    """

    modality: str = "CT"
    patient: str = ""
    series: str = ""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of slices."""

    @abc.abstractmethod
    def gray(self, index: int, window: tuple[float, float] | None = None) -> np.ndarray:
        """Shows one slice through a window, uint8 [h, w]; None is the one it was opened with.

        Raises:
          ImageError: this slice cannot be read.
        """


def is_volume(path: pathlib.Path, header: dicom.Header | None) -> bool:
    """True for NIfTI and .npy, by their names, and for DICOM files of more than one frame.

    Args:
      path: of the file.
      header: of the file, see `dicom.header_of`.
    """
    named_so = is_nifti(path) or path.name.lower().endswith(".npy")
    return named_so or (header is not None and header.frames > 1)


def open_volume(
    path: pathlib.Path,
    *,
    modality: str = "",
    window: tuple[float, float] = LUNG_WINDOW,
    gray_levels: bool = False,
) -> Volume:
    """Opens a volume; nothing but its header and its lowest and highest value is read yet.

    NIfTI (`.nii`, `.nii.gz`) holds Hounsfield units once its slope and intercept are applied. It is
    brought to the radiological view, axial slices from feet to head with the patient's right at the
    left and the front at the top, along the axes closest to those of its affine (`sform`, else
    `qform`); a file without either is refused, as it does not say where left and right are. `.npy`
    holds Hounsfield units, [slices, h, w] or [h, w], which are taken to be in that view.

    Both are refused if their values can be no Hounsfield units of a chest (`check_hounsfield`): not
    0..1, and not the gray levels 0..255 of published volumes that went through a window before.

    Frames of a DICOM file stay as they are stored, as single slices do; where all say their
    position they are sorted from feet to head.

    Args:
      path: of the file.
      modality: "CT" or "X-ray" to refuse any other; empty takes all.
      window: centre and width in Hounsfield units, for CT.
      gray_levels: NIfTI and `.npy` hold gray levels 0..255 instead, of a window that they went
        through before, and are shown as they are.

    Raises:
      ImageError: damaged, cut short, too large, more than `nifti.MAX_BYTES` (of packed data by its
        header, beyond which none is unpacked), or no volume of this kind.
      OSError: the file cannot be read.
    """
    npy = path.name.lower().endswith(".npy")
    if not npy and not is_nifti(path):
        with reading(path):
            return _Dicom(dicom.open_frames(read_file(path), modality=modality), window)
    if modality not in ("", "CT"):
        raise ImageError(f"a volume of CT, where {modality} is meant")
    slices = Slices(_open_npy(path)) if npy else open_nifti(path)
    if len(slices) > MAX_SLICES:
        raise ImageError(f"a volume of {len(slices):,} slices; at most {MAX_SLICES:,} are accepted")
    check_size(*slices.stored.shape[1:])
    ends = np.array([[values.min(), values.max()] for values in slices])
    lowest, highest = ends[:, 0].min(), ends[:, 1].max()
    if not gray_levels:
        check_hounsfield(lowest, highest)
    elif not (lowest >= 0 and highest <= 255):  # nor if one of them is not finite
        raise ImageError(f"values from {lowest:g} to {highest:g} are no gray levels, 0 to 255")
    return _Slices(slices, _GRAY_LEVELS if gray_levels else window)


def open_masks(path: pathlib.Path, scan: pathlib.Path, *, same_affine: bool = True) -> Slices:
    """Opens the masks of a NIfTI scan, NIfTI themselves, in the order and view of its slices.

    Args:
      path: of the masks, non-zero inside.
      scan: the volume that they are of.
      same_affine: see `nifti.check_grid`.

    Raises:
      ImageError: one of them is no NIfTI file or damaged, or their voxels do not coincide.
      OSError: a file cannot be read.
    """
    if not (is_nifti(path) and is_nifti(scan)):
        raise ImageError("only NIfTI volumes have masks, which are NIfTI too")
    check_grid(read_header(path), read_header(scan), same_affine=same_affine)
    return open_nifti(path)


class _Slices(Volume):
    """Slices that are seen through a window."""

    def __init__(self, slices: Slices, window: tuple[float, float]) -> None:
        self._slices, self._window = slices, window

    def __len__(self) -> int:
        return len(self._slices)

    def gray(self, index: int, window: tuple[float, float] | None = None) -> np.ndarray:
        """See `Volume`."""
        return through_window(self._slices[index], window or self._window)


class _Dicom(Volume):
    """Slices that are the frames of a DICOM file."""

    def __init__(self, frames: dicom.Frames, window: tuple[float, float]) -> None:
        dataset = frames.dataset
        self.modality = frames.modality
        self.patient = str(dataset.get("PatientID") or "")
        self.series = str(dataset.get("SeriesInstanceUID") or "")
        self._frames, self._window = frames, window
        self._order = feet_to_head(dataset, len(frames))

    def __len__(self) -> int:
        return len(self._frames)

    def gray(self, index: int, window: tuple[float, float] | None = None) -> np.ndarray:
        """See `Volume`."""
        return self._frames.gray(self._order[index], window or self._window)


def feet_to_head(dataset: Any, frames: int) -> list[int]:
    """The indices of the frames of a DICOM file in the order of the slices of its volume.

    Args:
      dataset: of pydicom.
      frames: their number.

    Returns:
      From feet to head where all frames say their positions and no two are equal; else that of the
      file.
    """
    planes = [macro(dataset, "PlanePositionSequence", index) for index in range(frames)]
    heights = [height_of(plane) for plane in planes]
    order = list(range(frames))
    if None not in heights and len(set(heights)) == len(heights):
        order.sort(key=heights.__getitem__)
    return order


def _open_npy(path: pathlib.Path) -> np.ndarray:
    check_volume_bytes(path.stat().st_size)
    with path.open("rb") as file:
        head = file.read(12)
    if head[6:7] > b"\1" and int.from_bytes(head[8:], "little") > _NPY_HEADER:
        raise ImageError("no readable .npy file of numbers (its header is too long); save it anew")
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # damaged headers raise whatever their parser meets
        raise ImageError(f"no readable .npy file of numbers ({error}); save it anew") from error
    if not isinstance(values, np.ndarray):  # an archive under this name
        values.close()
        raise ImageError("an .npz archive is no array; save one with numpy.save")
    if values.dtype.kind not in "iuf" or values.ndim not in (2, 3) or 0 in values.shape:
        raise ImageError(
            f"an array of {values.dtype} of shape {values.shape}; give numbers [slices, h, w] or "
            "[h, w] in Hounsfield units"
        )
    return values.reshape(-1, *values.shape[-2:])
