"""Received DICOM files, collected by series, screened when a series is complete.

    RESULTS/inbox/SERIES/OBJECT.dcm      received; the names are hashes of unique identifiers
    RESULTS/working/SERIES/              being screened
    RESULTS/failed/SERIES/reason.txt     cannot be screened; to try again, move it to inbox/
    RESULTS/kept/ID/                     sources of an answer, where they are kept

A series is complete when nothing of it has arrived for some seconds. Its folder is moved in one
step, so that what arrives later is another batch, and it is removed when its answer is on the disk.
A program that is killed finds everything in these folders when it starts again.
"""

import contextlib
import hashlib
import shutil
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from jaxcovid.data import dicom
from jaxcovid.data.dicom.elements import name_of
from jaxcovid.data.image_error import MAX_BYTES, ImageError
from jaxcovid.listening.answers import Answers
from jaxcovid.runtime.files import is_disk_full, write_atomically
from jaxcovid.runtime.user_errors import is_for_user

# Of C-STORE, PS3.4, table B.2-1.
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000
OTHER_OBJECT = 0xC001  # not what the request announces
_REASON = "reason.txt"
RETRY_S = 60  # after a full disk


@dataclass(frozen=True)
class InboxLimits:
    """What an inbox takes.

    Attributes:
      object_bytes: of one object; the reader takes no more than the default.
      series_objects: of one series.
      inbox_bytes: of all that lies in the inbox, being screened and failed series among it.
    """

    object_bytes: int = MAX_BYTES
    series_objects: int = 4000
    inbox_bytes: int = 16 * 2**30


class RefusedError(Exception):
    """An object that is not taken.

    Attributes:
      status: of the answer to C-STORE.
      reason: without anything that the object says, for the log.
    """

    def __init__(self, status: int, reason: str, details: str = "") -> None:
        super().__init__(details or reason)
        self.status, self.reason = status, reason


class Inbox:
    """Collects DICOM files by series and has each complete series answered.

    Files may be received by any thread; one thread screens.
    """

    def __init__(
        self,
        results: Path,
        answers: Answers,
        *,
        quiet_s: float = 5,
        limits: InboxLimits | None = None,
        keep_sources: bool = False,
    ) -> None:
        """Opens or starts the folders of an inbox.

        Args:
          results: gets them.
          answers: screens, and keeps the answers.
          quiet_s: how long nothing of a series has arrived when it is complete, seconds.
          limits: beyond which objects are refused; None takes the defaults.
          keep_sources: move files to `kept/` when they are answered, rather than remove them.

        Raises:
          OSError: the folders cannot be written.
        """
        self._answers, self._quiet_s, self._keep = answers, quiet_s, keep_sources
        self._limits = limits or InboxLimits()
        self._inbox, self._working, self._failed, self._kept = (
            results / name for name in ("inbox", "working", "failed", "kept")
        )
        for folder in (self._inbox, self._working, self._failed):
            folder.mkdir(parents=True, exist_ok=True)
        for path in self._inbox.glob("*/.*.tmp"):  # of a program that was killed while it wrote
            path.unlink()
        for path in self._working.glob(".*"):  # or removed files
            shutil.rmtree(path)
        self._lock = threading.Lock()
        self._retry: dict[str, float] = {}  # when to try again what the disk stopped
        self._last: dict[str, float] = {}  # when something of a series arrived, time.monotonic
        self._bytes = self._count_bytes()

    def receive(self, data: bytes, sop_class: str, sop_instance: str) -> None:
        """Takes one object; it is on the disk when this returns.

        Args:
          data: a DICOM file as it came.
          sop_class: unique identifier that the request announces.
          sop_instance: likewise.

        Raises:
          RefusedError: it is no image of the network's modality, damaged, or beyond a limit.
        """
        if len(data) > self._limits.object_bytes:
            raise RefusedError(
                OUT_OF_RESOURCES, f"an object of more than {self._limits.object_bytes:,} bytes"
            )
        series, instance = self._check(data, sop_class, sop_instance)
        folder = self._inbox / _hashed(series)
        path = folder / f"{_hashed(instance)}.dcm"
        with self._lock:
            before = path.stat().st_size if path.exists() else 0
            if not before and _count(folder) >= self._limits.series_objects:
                raise RefusedError(
                    OUT_OF_RESOURCES, f"more than {self._limits.series_objects:,} objects a series"
                )
            self._reserve(len(data) - before)
            try:
                folder.mkdir(exist_ok=True)
                write_atomically(path, data)
            except OSError as error:
                raise RefusedError(OUT_OF_RESOURCES, f"the disk: {error.strerror}") from error
            self._bytes += len(data) - before
            self._last[folder.name] = time.monotonic()

    def screen_due(self) -> int:
        """Answers what lies complete in the inbox; returns how many series that were.

        First comes what was being screened when the program was killed. No series stops it: one
        that cannot be screened is moved to `failed/`.
        """
        count = 0
        for folder in sorted(self._working.glob("[!.]*")):
            count += self._try_to_finish(folder)
        while complete := self._take():
            count += self._try_to_finish(complete)
        return count

    @property
    def waiting(self) -> int:
        """How many series are not answered yet."""
        return _count(self._inbox) + _count(self._working)

    def _check(self, data: bytes, sop_class: str, sop_instance: str) -> tuple[str, str]:
        """Refuses what is no image; returns the unique identifiers of its series and itself."""
        try:
            frames = dicom.open_frames(data, modality=self._answers.screener.network.modality)
        except ImageError as error:
            reason = "an object that is no image for this network, or damaged"
            raise RefusedError(CANNOT_UNDERSTAND, reason, str(error)) from error
        values = [
            str(frames.dataset.get(keyword) or "").strip()
            for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")
        ]
        if values[:2] != [sop_class, sop_instance]:
            raise RefusedError(OTHER_OBJECT, "an object that is not the one that was announced")
        if not values[2]:
            text = f"an object without {name_of('SeriesInstanceUID')}"
            raise RefusedError(CANNOT_UNDERSTAND, text)
        return values[2], values[1]

    def _reserve(self, more: int) -> None:
        """Refuses so many more bytes if the inbox is full; counts anew before it does."""
        if self._bytes + more > self._limits.inbox_bytes:
            self._bytes = self._count_bytes()  # a person may have emptied failed/
        if self._bytes + more > self._limits.inbox_bytes:
            raise RefusedError(
                OUT_OF_RESOURCES,
                f"the inbox is full ({self._bytes:,} of {self._limits.inbox_bytes:,} bytes, those "
                "of failed/ among them)",
            )

    def _count_bytes(self) -> int:
        count = 0
        for folder in (self._inbox, self._working, self._failed):
            for path in folder.glob("*/*"):
                with contextlib.suppress(OSError):  # a person has removed it
                    count += path.stat().st_size
        return count

    def _take(self) -> Path | None:
        """Moves the next complete series to `working/`; None if there is none."""
        with self._lock:
            now = time.monotonic()
            for folder in sorted(self._inbox.iterdir()):
                # After a start the sender of half a series gets the time to go on.
                if now - self._last.setdefault(folder.name, now) < self._quiet_s:
                    continue
                working = self._working / folder.name
                if working.exists():  # an earlier batch, which waits for the disk
                    continue
                self._last.pop(folder.name)
                folder.rename(working)
                return working
        return None

    def _try_to_finish(self, folder: Path) -> bool:
        """Answers a series of `working/`, later if the disk stops it; True if it was answered."""
        if time.monotonic() < self._retry.get(folder.name, 0):
            return False
        try:
            self._finish(folder)
        except OSError as error:
            logging.error("Series %s waits in working/: %s", folder.name[:12], error.strerror)
            self._retry[folder.name] = time.monotonic() + RETRY_S
            return False
        self._retry.pop(folder.name, None)
        return True

    def _finish(self, folder: Path) -> None:
        """Answers a series of `working/` and puts its files away.

        Raises:
          OSError: the disk is full, or a folder cannot be moved.
        """
        files = sorted(folder.glob("*.dcm"))
        answer = self._answers.identify([path.stem for path in files])
        started = time.monotonic()
        try:
            if not files:
                raise ValueError("the folder holds no DICOM files")
            new = self._answers.give(answer, files)
        except Exception as error:
            if is_disk_full(error):
                raise
            text = str(error) if is_for_user(error) else traceback.format_exc()
            self._put_away(folder, self._failed / folder.name, text)
            logging.warning(
                "Series %s of %d objects cannot be screened; failed/ has the reason.",
                folder.name[:12],
                len(files),
            )
            return
        self._put_away(folder, self._kept / answer if self._keep else None)
        logging.info(
            "Series %s of %d objects: answers/%s, %s",
            folder.name[:12],
            len(files),
            answer,
            f"{time.monotonic() - started:.1f} s" if new else "which was given before",
        )

    def _put_away(self, folder: Path, target: Path | None, reason: str = "") -> None:
        """Removes a folder, or moves it with a reason."""
        with self._lock:
            if target is None:
                # In one step out of sight: half of a series would be another one after a crash.
                hidden = folder.with_name(f".{folder.name}")
                folder.rename(hidden)
                shutil.rmtree(hidden)
            else:
                target.parent.mkdir(exist_ok=True)
                place, number = target, 1
                while place.exists():
                    number += 1
                    place = target.with_name(f"{target.name}-{number}")
                if reason:
                    try:
                        write_atomically(folder / _REASON, reason.encode("utf-8", "replace"))
                    except OSError as error:
                        logging.warning("No reason can be written: %s", error.strerror)
                folder.rename(place)
            self._bytes = self._count_bytes()


def _hashed(uid: str) -> str:
    """A name for a file or a folder, whatever the identifier contains."""
    return hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir()) if folder.exists() else 0
