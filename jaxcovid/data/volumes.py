"""Volumes, read slice by slice: NIfTI, arrays of Hounsfield units, DICOM of several frames."""

import abc
import gzip
import pathlib
import tempfile
import zlib
from typing import IO, Any

import numpy as np

from jaxcovid.data import dicom, nifti
from jaxcovid.data.dicom.elements import macro
from jaxcovid.data.dicom.warning_counts import reading
from jaxcovid.data.hounsfield import LUNG_WINDOW, check_hounsfield, through_window
from jaxcovid.data.image_error import ImageError, check_size, read_file

# Of an unpacked NIfTI or NumPy file: 1,024 slices of 512 x 512 in single precision.
MAX_BYTES = 2**30
MAX_SLICES = 10_000

_NPY_HEADER = 10_000  # bytes; NumPy refuses more too, after it has read them


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
    def gray(self, index: int) -> np.ndarray:
        """Shows one slice through the window, uint8 [h, w].

        Raises:
          ImageError: this slice cannot be read.
        """


def is_volume(path: pathlib.Path, header: dicom.Header | None) -> bool:
    """True for NIfTI and .npy, by their names, and for DICOM files of more than one frame.

    Args:
      path: of the file.
      header: of the file, see `dicom.header_of`.
    """
    named_so = path.name.lower().endswith((*nifti.SUFFIXES, ".npy"))
    return named_so or (header is not None and header.frames > 1)


def open_volume(
    path: pathlib.Path, *, modality: str = "", window: tuple[float, float] = LUNG_WINDOW
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

    Raises:
      ImageError: damaged, cut short, too large, more than `MAX_BYTES` (of packed data by its
        header, beyond which none is unpacked), or no volume of this kind.
      OSError: the file cannot be read.
    """
    name = path.name.lower()
    if not name.endswith((*nifti.SUFFIXES, ".npy")):
        with reading(path):
            return _Dicom(dicom.open_frames(read_file(path), modality=modality), window)
    if modality not in ("", "CT"):
        raise ImageError(f"a volume of CT, where {modality} is meant")
    values, slope, intercept = _open_npy(path) if name.endswith(".npy") else _open_nifti(path)
    if len(values) > MAX_SLICES:
        raise ImageError(f"a volume of {len(values):,} slices; at most {MAX_SLICES:,} are accepted")
    check_size(*values.shape[1:])
    return _Hounsfield(values, slope, intercept, window)


class _Hounsfield(Volume):
    """Slices of an array of Hounsfield units (value * slope + intercept), [slices, h, w]."""

    def __init__(
        self, values: np.ndarray, slope: float, intercept: float, window: tuple[float, float]
    ) -> None:
        self._values, self._slope, self._intercept = values, slope, intercept
        self._window = window
        slices = map(self._hounsfield, range(len(self)))
        ends = np.array([[hounsfield.min(), hounsfield.max()] for hounsfield in slices])
        check_hounsfield(ends[:, 0].min(), ends[:, 1].max())

    def __len__(self) -> int:
        return len(self._values)

    def _hounsfield(self, index: int) -> np.ndarray:
        return self._values[index].astype(np.float64) * self._slope + self._intercept

    def gray(self, index: int) -> np.ndarray:
        """See `Volume`."""
        return through_window(self._hounsfield(index), self._window)


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

    def gray(self, index: int) -> np.ndarray:
        """See `Volume`."""
        return self._frames.gray(self._order[index], self._window)


def feet_to_head(dataset: Any, frames: int) -> list[int]:
    """The indices of the frames of a DICOM file in the order of the slices of its volume.

    Args:
      dataset: of pydicom.
      frames: their number.

    Returns:
      From feet to head where all frames say their positions and no two are equal; else that of the
      file.
    """
    heights = [_height(dataset, index) for index in range(frames)]
    order = list(range(frames))
    if None not in heights and len(set(heights)) == len(heights):
        order.sort(key=heights.__getitem__)
    return order


def _height(dataset: Any, index: int) -> float | None:
    """Where along the body's axis a frame lies, mm towards the head; None if unknown."""
    group = macro(dataset, "PlanePositionSequence", index)
    try:
        return float(group.get("ImagePositionPatient")[2])
    except (TypeError, ValueError, IndexError):
        return None


def _open_npy(path: pathlib.Path) -> tuple[np.ndarray, float, float]:
    _check_bytes(path.stat().st_size)
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
    return values.reshape(-1, *values.shape[-2:]), 1.0, 0.0


def _open_nifti(path: pathlib.Path) -> tuple[np.ndarray, float, float]:
    """Values of a NIfTI file in the radiological view, [slices, h, w], and their scale."""
    packed = path.name.lower().endswith(".gz")
    with nifti.open_unpacked(path) as file:
        header, head = nifti.read_header(file)
        sides, dtype = nifti.three_sides(header.get_data_shape()), header.get_data_dtype()
        offset = int(header.get_data_offset())
        size = dtype.itemsize * sides[0] * sides[1] * sides[2]
        _check_bytes(offset + size)
        data = _unpacked(file, head, offset + size) if packed else path
        try:
            values = np.memmap(data, dtype, "r", offset, sides, "F")
        except (ValueError, OverflowError) as error:
            raise ImageError(
                f"NIfTI cut short or damaged ({error}); copy it again from its source"
            ) from error
    slope, intercept = header.get_slope_inter()
    view = nifti.to_view(values, header.get_best_affine())
    return view, 1.0 if slope is None else slope, intercept or 0.0


def _unpacked(file: IO[bytes], head: bytes, size: int) -> IO[bytes]:
    """Unpacks the first `size` bytes of a gzip file into a nameless one; `head` is already read.

    Raises:
      ImageError: there are fewer, or they are damaged.
    """
    target = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the array that maps it
    target.write(head[:size])
    try:
        while (left := size - target.tell()) > 0 and (part := file.read(min(2**20, left))):
            target.write(part)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ImageError(f"gzip data cut short or damaged ({error}); copy it again") from error
    if target.tell() < size:
        raise ImageError(
            f"the NIfTI file unpacks to {target.tell():,} bytes where its header needs {size:,}; "
            "copy it again from its source"
        )
    target.flush()
    return target


def _check_bytes(size: int) -> None:
    if size > MAX_BYTES:
        raise ImageError(f"a volume of {size:,} bytes; at most {MAX_BYTES:,} are accepted")
