"""Tables and folders as published: read, checked, and the files that they name.

A builder lists its images as rows: dictionaries of `path` (or `image`, the encoded bytes) and of
one value for each feature but the image.
"""

import codecs
import csv
import gzip
import io
import itertools
import pathlib
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from absl import logging

from jaxcovid.data.image_error import ImageError
from jaxcovid.data.image_files import every_nth
from jaxcovid.data.nifti import read_header

Row = dict[str, Any]

_LISTED = 200  # names in a message
_MAX_TABLE_BYTES = 2**26


def source_folder(
    source: str | None, *, name: str, what: str, layout: str, needed: Iterable[str] = ()
) -> pathlib.Path:
    """Checks the folder that a user names as the source of a data set.

    Args:
        source: As given.
        name: Of the data set.
        what: The folder should be, for the messages: "checkout of COVID-CT".
        layout: What it should hold, for the messages.
        needed: Paths in it that must be there.

    Raises:
        ValueError: If there is none.
        FileNotFoundError: If something that is needed is not there; names all of it.
    """
    if not source:
        raise ValueError(f"{name} needs --source=DIR, a {what} with\n{layout}")
    root = pathlib.Path(source).expanduser()
    absent = [path for path in needed if not (root / path).exists()]
    if absent:
        raise FileNotFoundError(
            f"{root} is no {what}: {', '.join(absent)} not found; expected\n{layout}"
        )
    return root


def find_table(root: pathlib.Path, names: Sequence[str], layout: str) -> pathlib.Path:
    """Returns the first of these files that is there.

    Raises:
        FileNotFoundError: If none is.
    """
    for name in names:
        if (root / name).is_file():
            return root / name
    raise FileNotFoundError(f"{root} has no {names[0]}; expected\n{layout}")


def read_table(table: pathlib.Path) -> tuple[list[str], list[dict[str, str]]]:
    """Reads the columns and rows of a CSV file, gzipped if its name says so; gaps are empty.

    Fields are separated by commas, semicolons or tabs, whichever the first line has most of. Text
    is UTF-8, UTF-16 with its mark, or else Windows' Western European, which the log says.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is too large or no CSV.
    """
    opened = gzip.open if table.suffix == ".gz" else open
    try:
        with opened(table, "rb") as file:
            pieces = iter(lambda: file.read(2**20), b"")
            data = b"".join(itertools.islice(pieces, 1 + _MAX_TABLE_BYTES // 2**20))
        if len(data) > _MAX_TABLE_BYTES:
            raise ValueError(f"at most {_MAX_TABLE_BYTES:,} bytes are accepted")
        text = _decoded(data, table)
        first = text.partition("\n")[0]
        delimiter = max(",;\t", key=first.count)
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="", delimiter=delimiter)
        return list(reader.fieldnames or ()), list(reader)
    except (ValueError, csv.Error, EOFError, zlib.error) as error:
        raise ValueError(f"{table} is no usable table: {error}") from error


def _decoded(data: bytes, table: pathlib.Path) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    if b"\0" in data:
        raise ValueError("it has zero bytes, as UTF-16 without its mark has; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        logging.warning(
            "%s is not UTF-8 (byte %d); read as Windows' Western European (cp1252)",
            table,
            error.start,
        )
        return data.decode("cp1252")


def check_columns(table: pathlib.Path, columns: Sequence[str], needed: Iterable[str]) -> None:
    """Refuses a table without a column that is needed.

    Raises:
        ValueError: Naming all that are absent, and those that are there.
    """
    absent = [name for name in needed if name not in columns]
    if absent:
        raise ValueError(
            f"{table} has no column {' and no column '.join(absent)}; it has "
            + ", ".join(filter(None, columns))
        )


def file_in(folder: pathlib.Path, name: str, *, named_in: object) -> pathlib.Path:
    """Returns the path of a file that a table names, in a folder.

    Links in the folder are followed: the folder is the user's, the table often somebody else's.

    Args:
        folder: Of the files.
        name: Relative to it.
        named_in: Table and row, for the message.

    Raises:
        ValueError: If the name leads out of the folder.
    """
    path = pathlib.PurePath(name)
    if path.anchor or ".." in path.parts or "\0" in name:
        raise ValueError(f"{named_in}: {name!r} leads out of {folder}; name a file in it")
    return folder / name


def present(rows: Sequence[Row], table: pathlib.Path, *, allow_missing: bool) -> list[Row]:
    """Returns the rows whose images are there.

    Args:
        rows: With `path` and `id`.
        table: Where they are named, for the message.
        allow_missing: Leave the others out instead of refusing.

    Raises:
        FileNotFoundError: If one is not there, or with `allow_missing` none is; names them.
    """
    missing = [row["id"] for row in rows if not row["path"].is_file()]
    if not missing:
        return list(rows)
    message = f"{len(missing)} of {len(rows)} images of {table} are not there: {listed(missing)}"
    if len(missing) == len(rows):
        raise FileNotFoundError(message)
    if not allow_missing:
        raise FileNotFoundError(f"{message}. Add them, or go without: --allow_missing")
    logging.warning("%s; left out", message)
    return [row for row in rows if row["path"].is_file()]


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def slice_rows(row: Row, every: int) -> list[Row]:
    """Lists the slices of a NIfTI volume.

    Args:
        row: Of the volume, with `path` and `volume`.
        every: Every how many slices are taken.

    Returns:
        For each slice the row with `id`, `slice` and `slice_index`, which are one number.

    Raises:
        ImageError: If the volume's header is damaged.
    """
    try:
        count = read_header(row["path"]).slices
    except ImageError as error:
        raise ImageError(f"{row['path']}: {error}") from error
    return [
        {**row, "id": f"{row['volume']}#{index:04d}", "slice": index, "slice_index": index}
        for index in every_nth(count, every)
    ]


def age_of(text: str) -> int:
    """Parses an age in years, -1 if there is none.

    Raises:
        ValueError: If it is no age.
    """
    age = float(text or -1)
    if not -1 <= age < 1000:
        raise ValueError(f"{text!r} is no age in years")
    return int(age)
