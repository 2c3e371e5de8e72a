"""A table of answers, a line each, that is readable however the program ends."""

import csv
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path

from jaxcovid.runtime.spreadsheets import no_formula

COLUMNS = (
    "answer",  # names the folder in answers/
    "time",  # when it was given, UTC
    "source",  # "dicom", or the file or folder that was looked at
    "patient",
    "study",
    "series",
    "images",  # how many the answer is about
    "probability",  # of the positive class, the mean over the images
    "decision",
    "outputs",  # all outputs of the network
    "involved",  # share of the lungs
    "grade",
    "network",
    "warning",
    "error",  # what could not be used, though there is an answer
)


class ResultsTable:
    """Appends rows, each once by its `answer`.

    A row is one line, appended by one write and synchronised. A line that a crash cut short is
    taken out when the table is opened; whoever appends writes that row again.
    """

    def __init__(self, path: Path) -> None:
        """Opens or starts the table.

        Raises:
          ValueError: the file is another table.
          OSError: it cannot be read or written.
        """
        self._path, self._answers = path, set[str]()
        header = _line(dict(zip(COLUMNS, COLUMNS, strict=True)))
        if not path.exists() or b"\n" not in path.read_bytes():
            path.write_bytes(header)
            return
        content = path.read_bytes()
        if not content.startswith(header):
            raise ValueError(f"{path} is another table; move it away or give another --results")
        whole = content[: content.rindex(b"\n") + 1]
        if whole != content:
            os.truncate(path, len(whole))
        rows = csv.DictReader(io.StringIO(whole.decode("utf-8", "replace")))
        self._answers = {row["answer"] for row in rows}

    def append(self, row: Mapping[str, str]) -> bool:
        """Appends a row of `COLUMNS`; False if there is one of this answer.

        Raises:
          OSError: the disk is full or the table cannot be written; nothing of the row stays.
        """
        if row["answer"] in self._answers:
            return False
        line, size = _line(row), self._path.stat().st_size
        try:
            with self._path.open("ab", buffering=0) as file:
                written = file.write(line)
                os.fsync(file.fileno())
            if written != len(line):
                raise OSError(f"{self._path}: the disk is full")
        except OSError:
            os.truncate(self._path, size)
            raise
        self._answers.add(row["answer"])
        return True


def _line(row: Mapping[str, str]) -> bytes:
    """A line of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow([_plain(row[name]) for name in COLUMNS])
    return text.getvalue().encode("utf-8", "backslashreplace")


def _plain(value: str) -> str:
    """A value without line breaks, and none that a spreadsheet takes for a formula."""
    return no_formula(re.sub(r"[\s\0]+", " ", value).strip())
