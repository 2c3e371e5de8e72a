"""What the processes that decode do: they alone touch the bytes that a stranger sent.

Such a process has no network of ours, little memory and no secret. It reads a file, writes gray
slices beside it and returns what it saw. Its errors are texts, so that nothing of a stranger's is
ever unpickled.
"""

import ctypes
import dataclasses
import functools
import os
import resource
import shutil
import signal
import sys
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from jaxcovid.data import dicom, volumes
from jaxcovid.data.hounsfield import through_window
from jaxcovid.data.image_error import ImageError, read_file
from jaxcovid.data.image_files import is_hidden
from jaxcovid.data.nifti import is_nifti
from jaxcovid.data.sight import Sight
from jaxcovid.inference.image_reader import Opened, Reader
from jaxcovid.serving.limits import Limits

HOUNSFIELD, GRAY_LEVELS = "HU", "gray level"
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
_OPEN_FILES = 256
_PIECE = 2**20  # bytes
_KEPT_SUFFIXES = (".nii.gz", ".nii", ".npy")  # by which volumes are known; see `volumes.is_volume`


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Where the gray pixels of a slice are: uint8 [h, w] from a byte of a file on."""

    file: Path
    start: int
    shape: tuple[int, int]

    def read(self) -> np.ndarray:
        """The gray slice, uint8 [h, w]."""
        count = self.shape[0] * self.shape[1]
        return np.fromfile(self.file, np.uint8, count, offset=self.start).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Slice:
    """A picture, or a slice of a volume.

    Attributes:
      source: the uploaded file.
      number: of the slice in it; None of a file of one picture.
      views: its pixels as each of some networks sees them; empty if there is an error.
      colour: see `decoding.colour_of`.
      height: of DICOM, mm towards the head; None if it is not known.
      error: why it cannot be used.
    """

    source: Path
    number: int | None
    views: tuple[Pixels, ...] = ()
    colour: float = 0.0
    height: float | None = None
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Decoded:
    """What is in a file.

    Attributes:
      slices: in order; one of a picture.
      unit: of its values, through whose window it can be seen: `HOUNSFIELD` or `GRAY_LEVELS`.
      volume: it is a file of several slices.
      patient: of DICOM, else empty.
      series: of DICOM, else empty.
      left_out: why there are no slices; empty otherwise.
      notes: in what unusual ways it was read.
    """

    slices: tuple[Slice, ...]
    unit: str
    volume: bool
    patient: str = ""
    series: str = ""
    left_out: str = ""
    notes: tuple[str, ...] = ()


def limit_process(limits: Limits) -> None:
    """Bounds this process: memory, size of files, open files; it ends with its parent."""
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.session_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold a patient's pixels
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    cv2.setNumThreads(1)


def file_name(name: str) -> str:
    """The name under which an upload is kept: nothing of the sender's but a known suffix."""
    lower = name.lower()
    return "file" + next((suffix for suffix in _KEPT_SUFFIXES if lower.endswith(suffix)), "")


def decode(path: Path, sights: Sequence[Sight], limits: Limits) -> Decoded:
    """Decodes a file; its pixels go into files beside it.

    Args:
      path: of the file, alone in its folder.
      sights: how the networks see it.
      limits: of slices and bytes.

    Raises:
      ImageError: it cannot be used; says why.
    """
    header = dicom.header_of(path)
    if header and header.left_out:
        return Decoded((), HOUNSFIELD, volume=False, left_out=header.left_out)
    volume = volumes.is_volume(path, header)
    slices: list[Slice] = []
    notes: set[str] = set()
    for index, sight in enumerate(sights):
        reader = Reader(sight)
        target = path.with_name(f"gray_{index}")
        seen = _save(reader.open([path]), target, limits)
        notes |= {note for note, count in reader.notes.items() if count}
        slices = seen if index == 0 else [_both(*each) for each in zip(slices, seen, strict=True)]
    if slices[0].number is None and slices[0].error:  # of a file, not of a slice in it
        raise ImageError(slices[0].error)
    hounsfield = header.modality == "CT" if header else volume
    return Decoded(
        tuple(dataclasses.replace(each, height=header and header.height) for each in slices),
        HOUNSFIELD if hounsfield else GRAY_LEVELS,
        volume=volume,
        patient=header.patient if header else "",
        series=header.series if header else "",
        notes=tuple(sorted(notes)),
    )


def _save(opened: Iterable[Opened], target: Path, limits: Limits) -> list[Slice]:
    """Writes gray slices one behind the other into a file."""
    slices = []
    with target.open("wb") as file:
        for image in opened:
            if len(slices) == limits.volume_slices:
                raise ImageError(f"more than {limits.volume_slices:,} slices")
            number = int(image.name.rpartition("#")[2]) if image.volume else None
            if image.gray is None:
                error = image.error.replace(str(image.path), "the file")
                slices.append(Slice(image.path, number, error=error))
                continue
            if file.tell() + image.gray.size > limits.session_bytes:
                raise ImageError(f"its slices have more than {limits.session_bytes:,} bytes")
            pixels = Pixels(target, file.tell(), image.gray.shape)
            file.write(image.gray.tobytes())
            slices.append(Slice(image.path, number, (pixels,), image.colour))
    return slices


def _both(first: Slice, second: Slice) -> Slice:
    """A slice as all networks see it; an error of one is an error of both."""
    if first.error or second.error:
        return dataclasses.replace(first, views=(), error=first.error or second.error)
    return dataclasses.replace(first, views=first.views + second.views)


def show(source: Path, number: int | None, sight: Sight) -> bytes:
    """A PNG of one slice, seen through the window of `sight`.

    Args:
      source: a file that `decode` took.
      number: of the slice in it; None of a file of one picture.
      sight: how it is seen.

    Raises:
      ImageError: it cannot be read.
    """
    if number is None:
        gray = sight.read_gray(read_file(source))
    else:
        gray = _volume(source, sight.modality).gray(number, sight.window)
    return encode(gray)


_shown: set[Path] = set()  # files of which `_volume` may hold what it unpacked


@functools.lru_cache(maxsize=2)
def _volume(path: Path, modality: str) -> volumes.Volume:
    _shown.add(path)
    return volumes.open_volume(path, modality=modality)


def forget_removed() -> None:
    """Lets go of volumes whose page was closed."""
    if not all(path.exists() for path in _shown):
        _volume.cache_clear()
        _shown.clear()


def encode(picture: np.ndarray) -> bytes:
    """A PNG of a picture uint8 [h, w] or, in the order of OpenCV, [h, w, 4]; fast, not small."""
    return cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def through_gray_window(gray: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Gray levels uint8 [h, w] seen through a window of centre and width in gray levels."""
    return through_window(gray.astype(np.float32), window)


def unpack(path: Path, folder: Path, *, most_files: int, most_bytes: int) -> list[tuple[str, Path]]:
    """Unpacks a zip file, each entry into a folder of its own with a name of ours.

    Args:
      path: of the zip file.
      folder: gets the folders `0`, `1`, ...
      most_files: that are unpacked.
      most_bytes: of all of them, counted and not as the zip file has it.

    Returns:
      The name of each entry, without what leads out of the zip file, and its file.

    Raises:
      ImageError: damaged, encrypted, or beyond the limits.
    """
    unpacked: list[tuple[str, Path]] = []
    left = most_bytes
    folder.mkdir()
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
                # What leads out of the zip file is left out of names, and opens nothing.
                inside = [part for part in parts if part not in ("/", "..")]
                if entry.is_dir() or not inside or any(map(is_hidden, inside)):
                    continue
                if len(unpacked) == most_files:
                    raise ImageError(f"a zip file of more than {most_files:,} files")
                if entry.flag_bits & 1:
                    raise ImageError("an encrypted zip file; unpack it first")
                target = folder / str(len(unpacked)) / file_name(inside[-1])
                target.parent.mkdir()
                with archive.open(entry) as packed, target.open("wb") as file:
                    while piece := packed.read(_PIECE):
                        left -= len(piece)
                        if left < 0:
                            raise ImageError(
                                f"a zip file of more than {most_bytes:,} bytes, unpacked"
                            )
                        file.write(piece)
                unpacked.append(("/".join(inside), target))
    except ImageError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except Exception as error:  # damaged archives raise whatever meets them
        shutil.rmtree(folder, ignore_errors=True)
        raise ImageError(f"a damaged zip file ({type(error).__name__}); pack it again") from error
    return unpacked


def is_zip(path: Path) -> bool:
    """True of a zip file that is no volume: .npz and others are refused by their readers."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\3\4", b"PK\5\6") and not is_nifti(path)


def free_bytes(folder: Path) -> int:
    """Bytes that are free where a folder is."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
