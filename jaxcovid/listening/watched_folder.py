"""Somebody else's folder, whose images are screened as they come; nothing in it is changed.

DICOM files are taken together by series, and a series that gets more files is screened again as a
whole. Pictures, NIfTI and .npy are taken one by one. What was done is kept as lines of JSON: path,
size and time of each file.
"""

import collections
import contextlib
import json
import os
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from absl import logging

from jaxcovid.data import dicom
from jaxcovid.data.dicom import is_dicom
from jaxcovid.data.nifti import is_nifti
from jaxcovid.listening.answers import Answers
from jaxcovid.listening.inbox import RETRY_S
from jaxcovid.runtime.files import is_disk_full, write_atomically
from jaxcovid.runtime.user_errors import is_for_user

_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy")

# Path, size in bytes and time of the last change in ns: as long as these stay, the file does.
File = tuple[str, int, int]


class WatchedFolder:
    """Finds images that are complete and have no answer yet."""

    def __init__(
        self, folder: Path, results: Path, answers: Answers, *, quiet_s: float = 5
    ) -> None:
        """Opens a folder, and the list of what was done.

        Args:
          folder: to watch, with all below it but hidden files and links.
          results: gets `watched.jsonl`, and `failed/ID.txt` for what cannot be screened.
          answers: screens, and keeps the answers.
          quiet_s: how long a file has not changed when it is complete, seconds.

        Raises:
          ValueError: one of the folders lies in the other, or the list is damaged.
          OSError: the folder does not exist, or the results cannot be written.
        """
        inside, outside = folder.resolve(), results.resolve()
        if inside.is_relative_to(outside) or outside.is_relative_to(inside):
            raise ValueError(f"results in {results} would be watched too; choose --results apart")
        next(folder.iterdir(), None)
        self._folder, self._answers, self._quiet_s = inside, answers, quiet_s
        self._failed, self._state = results / "failed", results / "watched.jsonl"
        self._failed.mkdir(parents=True, exist_ok=True)
        self._done = _read_state(self._state)
        self._since: dict[File, float] = {}  # when it was first seen so, time.monotonic
        self._groups: dict[File, str | None] = {}  # see `_group_of`
        self._unread: list[File] = []  # which could not be opened at the last look
        self._retry_at = 0.0  # after the disk was full, time.monotonic

    def screen_due(self) -> int:
        """Answers what is complete and has no answer; returns how many answers that were."""
        now, groups = time.monotonic(), collections.defaultdict[str, list[File]](list)
        files = list(_walk(self._folder))
        self._since = {file: self._since.get(file, now) for file in files}
        self._groups = {file: self._groups.get(file, "") for file in files}
        for file in files:
            if self._groups[file] == "":
                self._groups[file] = _group_of(file)
            if group := self._groups[file]:
                groups[group].append(file)
        unread = [file for file in files if self._groups[file] == ""]
        if unread and unread != self._unread:
            logging.warning("%d watched files cannot be read; they are tried again", len(unread))
        self._unread = unread
        count = 0
        for _, members in sorted(groups.items()):
            if now < self._retry_at or self._done.issuperset(members):
                continue
            if any(now - self._since[file] < self._quiet_s for file in members):
                continue
            try:
                self._answer(members)
                count += 1
            except OSError as error:
                logging.error("%d watched files wait: %s", len(members), error.strerror)
                self._retry_at = time.monotonic() + RETRY_S
                break
        return count

    @property
    def waiting(self) -> int:
        """How many files have no answer yet, as far as the last look saw; see `unreadable`."""
        return sum(bool(group) and file not in self._done for file, group in self._groups.items())

    @property
    def unreadable(self) -> int:
        """How many files wait because the last look could not open them."""
        return len(self._unread)

    def _answer(self, files: list[File]) -> None:
        """Answers the files of a group, and notes that they are done.

        Raises:
          OSError: the disk is full, or the results cannot be written.
        """
        answer = self._answers.identify(["watched", *(json.dumps(file) for file in files)])
        paths = [Path(path) for path, _, _ in sorted(files)]
        source = paths[0] if len(paths) == 1 else paths[0].parent
        try:
            self._answers.give(answer, paths, source=str(source.relative_to(self._folder)))
            logging.info("%d watched files: answers/%s", len(files), answer)
        except Exception as error:
            if is_disk_full(error):
                raise
            text = str(error) if is_for_user(error) else traceback.format_exc()
            content = "\n".join([*map(str, paths), "", text, ""])
            write_atomically(self._failed / f"{answer}.txt", content.encode("utf-8", "replace"))
            logging.warning(
                "%d watched files cannot be screened; failed/%s.txt has the reason.",
                len(files),
                answer,
            )
        lines = "".join(json.dumps(file) + "\n" for file in files if file not in self._done)
        with self._state.open("a", encoding="ascii") as state:
            state.write(lines)
            state.flush()
            os.fsync(state.fileno())
        self._done.update(files)


def _walk(folder: Path) -> Iterator[File]:
    """The files below a folder; without hidden ones and links."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            with contextlib.suppress(OSError):  # it has gone
                if entry.is_dir(follow_symlinks=False):
                    yield from _walk(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    yield entry.path, status.st_size, status.st_mtime_ns


def _group_of(file: File) -> str | None:
    """What a file is taken together with: its series, or itself; None of no image."""
    path = Path(file[0])
    try:
        with path.open("rb") as opened:
            if is_dicom(opened.read(1024)):
                header = dicom.header_of(path)
                if header and header.left_out:
                    return None
                series = header.series if header else ""
                return f"series {series}" if series else f"file {path}"
    except OSError:
        return ""  # the next look tries again
    picture = is_nifti(path) or path.name.lower().endswith(_PICTURES)
    return f"file {path}" if picture else None


def _read_state(path: Path) -> set[File]:
    """The files that were done; a line that a crash cut short is taken out."""
    if not path.exists():
        return set()
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(path, len(whole))
    try:
        lines = [json.loads(line) for line in whole.splitlines()]
        return {(str(name), int(size), int(when)) for name, size, when in lines}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it to screen all again") from error
