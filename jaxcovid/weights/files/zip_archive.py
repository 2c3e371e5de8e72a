"""Zip archives from other people: of a bounded size, and with one kind of error."""

import contextlib
import io
import zipfile
import zlib
from collections.abc import Iterator

_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # a compression that Python lacks
    OSError,
    RuntimeError,  # a password
    UnicodeDecodeError,
)


@contextlib.contextmanager
def open_archive(data: bytes, most_bytes: int) -> Iterator[zipfile.ZipFile]:
    """An archive whose entries have at most so many bytes, unpacked.

    Python reads no more of an entry than its declared size.

    Raises:
      ValueError: they have more, or the archive is damaged, also where it is found while reading.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > most_bytes:
                raise ValueError(
                    f"its entries unpack to {unpacked:,} bytes; at most {most_bytes:,} are accepted"
                )
            yield archive
    except _ERRORS as error:
        raise ValueError(f"its zip archive is damaged: {error}") from error
