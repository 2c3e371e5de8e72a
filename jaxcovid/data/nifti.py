"""NIfTI files, brought to the radiological view.

Source of the format: https://nifti.nimh.nih.gov/nifti-1 (header fields, qform and sform).
"""

import gzip
import itertools
import math
import pathlib
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from jaxcovid.data.image_error import ImageError

# Of an unpacked volume: 1,024 slices of 512 x 512 in single precision.
MAX_BYTES = 2**30

_SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Header:
    """What the header of a file says.

    Attributes:
      shape: of the stored volume [x, y, z].
      affine: float64 [4, 4], from a stored voxel (x, y, z) to mm to the right, front and head.
      dtype: of the stored values.
      offset: bytes before the first value.
      slope: value * slope + intercept is what is meant.
      intercept: likewise.
      fields: all of it, a header of nibabel.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    fields: Any

    @property
    def slices(self) -> int:
        """Number of axial slices."""
        return self.shape[self.axes()[:, 0].tolist().index(2)]

    def axes(self) -> np.ndarray:
        """Of each stored axis the one of the body that it is closest to, and its sense, [3, 2]."""
        import nibabel

        return nibabel.io_orientation(self.affine)

    def to_view(self, values: np.ndarray) -> np.ndarray:
        """Stored values [x, y, z] in the radiological view [slices, h, w]; see `Slices`."""
        return values.transpose(np.argsort(self.axes()[:, 0]))[self._flips()].T

    def from_view(self, view: np.ndarray) -> np.ndarray:
        """Undoes `to_view`."""
        return view.T[self._flips()].transpose(self.axes()[:, 0].astype(int))

    def _flips(self) -> tuple[slice, ...]:
        axes = self.axes()
        # A file's senses are to the right, the front and the head.
        senses = axes[np.argsort(axes[:, 0]), 1] * (-1, -1, 1)
        return tuple(slice(None, None, int(sense)) for sense in senses)


@dataclass(frozen=True)
class Slices(Sequence[np.ndarray]):
    """Slices of a volume in the radiological view, float64 [h, w] by their index.

    They go from feet to head, with the front at the top and the patient's right at the left.

    Attributes:
      stored: the values of the file in that view, [slices, h, w].
      slope: see `Header`.
      intercept: see `Header`.
    """

    stored: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: Any) -> Any:
        return self.stored[index].astype(np.float64) * self.slope + self.intercept


def is_nifti(path: pathlib.Path) -> bool:
    """True for NIfTI, by the name of the file."""
    return path.name.lower().endswith(_SUFFIXES)


def read_header(path: pathlib.Path) -> Header:
    """Reads the header of a file, and nothing else of it.

    Raises:
      ImageError: it is damaged, or of no single volume with a place in the body.
      OSError: the file cannot be read.
    """
    with _opened(path) as file:
        return _parse(_head(file))


def open_nifti(path: pathlib.Path) -> Slices:
    """Opens a file; its values are mapped, not read, if it is not packed.

    Raises:
      ImageError: see `read_header`; it is cut short, or of more than `MAX_BYTES`.
      OSError: the file cannot be read.
    """
    with _opened(path) as file:
        head = _head(file)
        header = _parse(head)
        size = header.offset + header.dtype.itemsize * math.prod(header.shape)
        check_volume_bytes(size)
        data = _unpacked(file, head, size) if _packed(path) else path
        try:
            values = np.memmap(data, header.dtype, "r", header.offset, header.shape, "F")
        except (ValueError, OverflowError) as error:
            raise ImageError(
                f"NIfTI cut short or damaged ({error}); copy it again from its source"
            ) from error
    return Slices(header.to_view(values), header.slope, header.intercept)


def check_volume_bytes(size: int) -> None:
    """Refuses a volume of too many bytes.

    Raises:
      ImageError: more than `MAX_BYTES`.
    """
    if size > MAX_BYTES:
        raise ImageError(f"a volume of {size:,} bytes; at most {MAX_BYTES:,} are accepted")


def check_grid(masks: Header, scan: Header, *, same_affine: bool = True) -> None:
    """Refuses masks whose voxels are not those of the scan.

    Args:
      masks: of the masks.
      scan: of the scan.
      same_affine: all voxels must be at the same place in the body, within half a voxel. False:
        only shape and orientation count, for programs that lose origin or spacing.

    Raises:
      ImageError: they differ; says by how much.
    """
    if masks.shape != scan.shape:
        raise ImageError(f"masks of {masks.shape} voxels, the scan has {scan.shape}")
    if not np.array_equal(masks.axes(), scan.axes()):
        raise ImageError(
            "the axes of the masks are not those of the scan; save them with its affine"
        )
    if not same_affine:
        return
    corners = [[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in scan.shape))]
    apart_mm = np.linalg.norm((masks.affine - scan.affine) @ np.array(corners).T, axis=0).max()
    voxel_mm = np.linalg.norm(scan.affine[:3, :3], axis=0).min()
    if not apart_mm <= voxel_mm / 2:
        raise ImageError(
            f"masks and scan are up to {apart_mm:.3g} mm apart, a voxel has {voxel_mm:.3g} mm; "
            "save the masks with the affine of the scan"
        )


def _packed(path: pathlib.Path) -> bool:
    return path.name.lower().endswith(".gz")


def _opened(path: pathlib.Path) -> IO[bytes]:
    return gzip.open(path) if _packed(path) else path.open("rb")


def _head(file: IO[bytes]) -> bytes:
    """The first bytes of a file, enough for either header.

    Raises:
      ImageError: they are damaged.
    """
    try:
        return file.read(540)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ImageError(f"no readable NIfTI file ({error}); save it anew") from error


def _parse(head: bytes) -> Header:
    """Reads a header; see `read_header` for what it raises."""
    import nibabel

    try:
        nifti2 = head[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # 540, the size of its header
        kind = nibabel.Nifti2Header if nifti2 else nibabel.Nifti1Header
        header = kind(head[: kind.template_dtype.itemsize])
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
        offset = int(header.get_data_offset())
        slope, intercept = header.get_slope_inter()
        affine = header.get_best_affine()
        placed = int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0
        single = header["magic"].item()[:2] == b"n+"
    except Exception as error:  # damaged headers raise whatever their parser meets
        raise ImageError(f"no readable NIfTI file ({error}); save it anew") from error
    sides = [*map(int, shape)] + [1] * (3 - len(shape))
    if min(sides) < 1 or max(sides[3:], default=1) > 1 or dtype.kind not in "iuf" or not single:
        raise ImageError(
            f"NIfTI of {dtype} of shape {tuple(sides)} is no single volume of gray values; "
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
    return Header(
        shape=(sides[0], sides[1], sides[2]),
        affine=affine,
        dtype=dtype,
        offset=offset,
        slope=1.0 if slope is None else slope,
        intercept=intercept or 0.0,
        fields=header,
    )


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
