"""Decoded images of a split in one file, so that each is decoded once.

The file begins with a NumPy array int64 [n, 3]: where the image of each record begins, its height
and its width, all 0 if it cannot be decoded. Behind it are the pixels, uint8, one image after
another as they were decoded. All processes of a host map the same file into their memory.
"""

import concurrent.futures
import contextlib
import hashlib
import os
import tempfile
import threading
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tqdm
from absl import logging

import jaxcovid
from jaxcovid.data.datasets import Record
from jaxcovid.data.decoding import decode_gray
from jaxcovid.data.image_error import ImageError
from jaxcovid.data.image_files import every_nth
from jaxcovid.runtime.files import is_remote
from jaxcovid.runtime.memory import available_bytes

CACHES = ("none", "memory", "disk")
_DECODERS = ("opencv-python-headless", "pillow", "pydicom", "imagecodecs")
_SAMPLE = 100  # images of a split whose size is measured before memory is filled
_FILLED = 0.8  # share of the free memory, at most


class CachedSource(Sequence[Record]):
    """Records with their decoded image beside the encoded one: `gray`, uint8 [h, w], read-only.

    A record whose image cannot be decoded has none. Pickles to its source and the path of the file,
    so that workers map it too.
    """

    def __init__(self, source: Sequence[Record], path: Path, file: Any = None) -> None:
        """Maps the file of a split.

        Args:
          source: the records.
          path: see the module.
          file: kept open as long as this source, if the path leads nowhere without it.

        Raises:
          ValueError: the file is damaged, or of other records.
          OSError: it cannot be read.
        """
        self._source, self._path = source, path
        if file is not None:
            weakref.finalize(self, file.close)
        try:
            with path.open("rb") as content:
                self._table = np.load(content, allow_pickle=False)
            self._bytes = np.asarray(np.memmap(path, np.uint8, mode="r"))
            begin, height, width = self._table.T
            if len(begin) != len(source) or (begin + height * width).max() > self._bytes.size:
                raise ValueError(f"{len(begin)} images in {self._bytes.size:,} bytes")
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it") from error

    def __reduce__(self) -> tuple[type, tuple[Sequence[Record], Path]]:
        return CachedSource, (self._source, self._path)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        record = self._source[index]
        begin, height, width = self._table[index].tolist()
        if not height:
            return record
        pixels = self._bytes[begin : begin + height * width]
        return {**record, "gray": pixels.reshape(height, width)}


def check_cache(cache: str) -> None:
    """Refuses a cache that does not exist.

    Raises:
      ValueError: naming those that do.
    """
    if cache not in CACHES:
        raise ValueError(f"cache is {cache!r}; use one of {', '.join(CACHES)}")


def cache_images(
    sources: Mapping[str, Sequence[Record]], *, cache: str, folder: Path, digest: str
) -> dict[str, Sequence[Record]]:
    """Decodes the images of some splits, unless that was done before.

    Args:
      sources: the records of each split.
      cache: `none`; `memory`, which ends with this process; or `disk`, beside the records, where
        later runs and all processes that see the folder find it.
      folder: of the prepared data set.
      digest: of the data set.

    Returns:
      The sources, with decoded images unless `cache` is `none`.

    Raises:
      ValueError: there is too little free memory, or the folder is in an object store.
      OSError: the file of `disk` cannot be written.
    """
    check_cache(cache)
    if cache == "memory":
        _check_memory(sources)
        return {split: _in_memory(source, split) for split, source in sources.items()}
    if cache == "disk":
        return {
            split: _on_disk(source, split, folder / file_name(split, digest))
            for split, source in sources.items()
        }
    return dict(sources)


def file_name(split: str, digest: str) -> str:
    """Name of the file of a split; other images or other decoders make another."""
    decoders = [jaxcovid.__version__, *(metadata.version(name) for name in _DECODERS)]
    key = hashlib.sha256("\0".join([digest, *decoders]).encode()).hexdigest()
    return f"decoded-{split}-{key[:16]}.images"


def _check_memory(sources: Mapping[str, Sequence[Record]]) -> None:
    """Refuses splits whose images will take too much memory, by the sizes of a sample.

    Raises:
      ValueError: saying how much.
    """
    needed = 0
    for source in sources.values():
        sample = every_nth(len(source), max(1, len(source) // _SAMPLE))
        sizes = [0 if (gray := _decode(source, i)) is None else gray.size for i in sample]
        needed += round(np.mean(sizes) * len(source))
    if needed > (limit := _memory_limit()):
        raise _too_large(f"about {needed / 2**30:,.2f}", limit)


def _memory_limit() -> int:
    """Bytes that decoded images may take in memory."""
    return int(_FILLED * available_bytes())


def _too_large(needed: str, limit: int) -> ValueError:
    return ValueError(
        f"the decoded images take {needed} GiB, but cache=memory fills at most "
        f"{limit / 2**30:,.2f} GiB, {_FILLED:.0%} of the free memory; use --config.cache=disk or "
        "none"
    )


def _in_memory(source: Sequence[Record], split: str) -> CachedSource:
    """Keeps a split in a file without a name, which no process outlives."""
    if hasattr(os, "memfd_create"):
        file = os.fdopen(os.memfd_create(f"decoded-{split}"), "w+b")
        path = Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
    else:  # no Linux: a file in the temporary folder, which stays there if the process is killed
        file = tempfile.NamedTemporaryFile(prefix=f"decoded-{split}-")  # noqa: SIM115
        path = Path(file.name)
    _decode_into(file, source, split, _memory_limit())
    return CachedSource(source, path, file)


def _on_disk(source: Sequence[Record], split: str, path: Path) -> CachedSource:
    """Writes the file of a split, unless it is there, and maps it.

    Written under a name of its own and renamed, so that a reader sees all of it or nothing.
    """
    if is_remote(path):
        raise ValueError(f"{path.parent} is no folder of a file system; use --config.cache=memory")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with _alone(path.parent):
        if not path.exists():
            try:
                with temporary.open("wb") as file:
                    _decode_into(file, source, split)
                    os.fsync(file.fileno())
                temporary.replace(path)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"cannot write decoded images ({error.strerror}); make the folder writable, "
                    "free some space, or use --config.cache=memory or none",
                    str(path),
                ) from error
            finally:
                temporary.unlink(missing_ok=True)
    return CachedSource(source, path)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lets one process at a time work; without locks, as some network folders are, all of them."""
    import fcntl  # Windows, where networks predict but do not train, has none

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _decode(source: Sequence[Record], index: int) -> np.ndarray | None:
    """The image of a record; None if it cannot be decoded, which whoever needs it will notice."""
    try:
        return decode_gray(source[index]["image"])
    except ImageError:
        return None


def _decode_into(
    file: BinaryIO, source: Sequence[Record], split: str, limit: int | None = None
) -> None:
    """Decodes all images into an empty file, in threads.

    Raises:
      ValueError: the pixels take more than `limit` bytes.
      OSError: the file cannot be written.
    """
    logging.info("Decoding the %d images of the %s split", len(source), split)
    table, lock = np.zeros((len(source), 3), np.int64), threading.Lock()
    np.save(file, table)  # makes room

    def store(index: int) -> None:
        gray = _decode(source, index)
        if gray is None:
            return
        with lock:
            begin = file.tell()
            if limit is not None and begin + gray.size > limit:
                raise _too_large(f"more than {begin / 2**30:,.2f}", limit)
            file.write(np.ascontiguousarray(gray).data)
            table[index] = begin, *gray.shape

    with concurrent.futures.ThreadPoolExecutor() as pool:
        done = pool.map(store, range(len(source)))
        for _ in tqdm.tqdm(
            done, "Decoding images", total=len(source), unit=" images", leave=False, disable=None
        ):
            pass
    file.seek(0)
    np.save(file, table)
    file.flush()
