"""Answers to series and pictures: each is given once, and is whole or absent.

    RESULTS/results.csv                a row for each answer
    RESULTS/answers/ID/                secondary_capture.dcm and segmentation.dcm of DICOM, else
                                       picture.png and masks; answer.json, the row
    RESULTS/answers/ID/unsent          there while the objects have to be sent

An answer is made in a hidden folder, which gets its name when all is written, and then its row. A
program that is killed in between finds the folder or not, and writes what is missing.
"""

import contextlib
import datetime
import hashlib
import json
import os
import shutil
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from jaxcovid.data import dicom
from jaxcovid.data.png import encode_png
from jaxcovid.listening import secondary_capture
from jaxcovid.listening.results_table import ResultsTable
from jaxcovid.listening.screener import Screened, Screener
from jaxcovid.runtime.files import read_json, write_atomically

FOLDER = "answers"
UNSENT = "unsent"
_ROW = "answer.json"
_MOST_ATTEMPTS = 3


@dataclass(frozen=True)
class _Identity:
    """Whose images a series holds."""

    patient: str
    study: str
    series: str


class Answers:
    """Makes answers and keeps them in a folder.

    Attributes:
      screener: what looks at the images.
      news: set at each answer.
    """

    def __init__(self, results: Path, screener: Screener, *, send: bool = False) -> None:
        """Opens or starts the folder.

        Args:
          results: the folder.
          screener: what looks at the images.
          send: mark the DICOM objects of new answers as unsent.

        Raises:
          ValueError: `results.csv` is another table, or a library is missing.
          OSError: the folder cannot be written.
        """
        secondary_capture.check_installed()
        self.screener, self._send = screener, send
        self._results, self._folder = results, results / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._table = ResultsTable(results / "results.csv")
        self.news = threading.Event()

    def identify(self, parts: Sequence[str]) -> str:
        """The id of the answer to something, by what makes it up; 24 hexadecimal digits."""
        text = "\n".join([self.screener.name, self.screener.threshold, *sorted(parts)])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]

    def give(self, answer: str, files: Sequence[Path], *, source: str = "dicom") -> bool:
        """Answers, unless that was done before; False if it was.

        Args:
          answer: id, see `identify`.
          files: of one series, or one picture or volume.
          source: of the row.

        Raises:
          ValueError: the files cannot be screened; says why.
          Exception: whatever else stops it; there is no answer then.
        """
        folder, attempts = self._folder / answer, self._folder / f".{answer}.attempts"
        if not folder.exists():
            staging = self._folder / f".{answer}"
            shutil.rmtree(staging, ignore_errors=True)
            with _counted(attempts):
                staging.mkdir()
                try:
                    self._make(answer, files, staging, source)
                    staging.rename(folder)
                except BaseException:
                    shutil.rmtree(staging, ignore_errors=True)
                    raise
            _synchronise(self._folder)
        attempts.unlink(missing_ok=True)
        row = {name: str(value) for name, value in read_json(folder / _ROW).items()}
        new = self._table.append(row)
        self.news.set()
        return new

    def _make(self, answer: str, files: Sequence[Path], folder: Path, source: str) -> None:
        """Writes all of an answer into a folder."""
        identity = _identify(files)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, which show values of the header
            screened = self.screener.screen(files, folder)
        picture = secondary_capture.draw(
            screened.gray, screened.heatmap, screened.masks, screened.lines
        )
        if identity:
            content = secondary_capture.encode(
                screened.path, picture, "; ".join([*screened.lines, secondary_capture.NOTICE])
            )
            write_atomically(folder / "secondary_capture.dcm", content)
            if self._send:
                (folder / UNSENT).touch()
        else:
            png = encode_png(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            write_atomically(folder / "picture.png", png)
        row = _row(answer, screened, identity or _Identity("", "", ""), source, self.screener)
        write_atomically(folder / _ROW, json.dumps(row, indent=1).encode())
        _synchronise(folder)


def _row(
    answer: str, screened: Screened, identity: _Identity, source: str, screener: Screener
) -> dict[str, str]:
    """A row of `results_table.COLUMNS`."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "answer": answer,
        "time": now.isoformat(timespec="seconds"),
        "source": source,
        "patient": identity.patient,
        "study": identity.study,
        "series": identity.series,
        "images": str(screened.images),
        "probability": screened.probability,
        "decision": screened.decision,
        "outputs": screened.outputs,
        "involved": screened.involved,
        "grade": screened.grade,
        "network": screener.name,
        "warning": screened.warning,
        "error": screened.error,
    }


def _identify(files: Sequence[Path]) -> _Identity | None:
    """Whose images DICOM files are; None for other files.

    Raises:
      ValueError: they are of several patients, studies or series.
    """
    headers = [dicom.header_of(path) for path in files]
    known = {_Identity(h.patient, h.study, h.series) for h in headers if h}
    if len(known) > 1:
        raise ValueError(
            f"{len(files)} files of one series name {len({i.patient for i in known})} patients and "
            f"{len({i.study for i in known})} studies; send each patient's images as their own"
        )
    return known.pop() if known else None


@contextlib.contextmanager
def _counted(path: Path) -> Iterator[None]:
    """Counts in a file how often the program ended within this context.

    Raises:
      ValueError: too often: the images crash a library.
    """
    number = path.stat().st_size if path.exists() else 0
    if number >= _MOST_ATTEMPTS:
        path.unlink()
        raise ValueError(f"the program ended {number} times while it screened this")
    with path.open("ab") as file:
        file.write(b".")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _synchronise(folder: Path) -> None:
    """Has the disk keep the names in a folder, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
