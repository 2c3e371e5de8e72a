"""Which files are images to look at: one rule for preparing a data set and for predicting.

Hidden files and folders are left out, links are followed, and whatever is left out is counted by
its reason, so that no image vanishes without a word.
"""

import collections
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

# What operating systems put beside a user's files.
_SYSTEM_NAMES = {"thumbs.db", "desktop.ini", "__macosx"}

HIDDEN = "hidden files or folders"
DANGLING = "links that lead nowhere"
CIRCULAR = "links to a folder that was looked into already"
UNREADABLE = "folders that cannot be read"
NO_FILE = "pipes, sockets or devices"
TWICE = "files given more than once"


def find_files(folder: Path, left_out: collections.Counter[str]) -> list[Path]:
    """Lists the files below a folder, in the order of their paths, each once.

    Args:
      folder: to look into; linked folders in it too.
      left_out: gets how many files and folders were left out, by reason.

    Raises:
      OSError: the folder itself cannot be read.
    """
    next(folder.iterdir(), None)
    seen: set[str] = set()
    files = []
    for path in _walk(folder, {_place(folder.stat())}, left_out):
        real = os.path.realpath(path)
        if real in seen:
            left_out[TWICE] += 1
        else:
            seen.add(real)
            files.append(path)
    return files


def is_hidden(name: str) -> bool:
    """True of a file or folder that is left out: a hidden one, or one of the operating system."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def _walk(
    folder: Path, looked_into: set[tuple[int, int]], left_out: collections.Counter[str]
) -> Iterator[Path]:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        left_out[UNREADABLE] += 1
        return
    for name in names:
        path = folder / name
        if is_hidden(name):
            left_out[HIDDEN] += 1
            continue
        try:
            status = path.stat()
        except OSError:  # a circle of links has no place either
            left_out[DANGLING] += 1
            continue
        if stat.S_ISREG(status.st_mode):
            yield path
        elif not stat.S_ISDIR(status.st_mode):
            left_out[NO_FILE] += 1
        elif _place(status) in looked_into:
            left_out[CIRCULAR] += 1
        else:
            looked_into.add(_place(status))
            yield from _walk(path, looked_into, left_out)


def _place(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def text_of(path: str | os.PathLike[str]) -> str:
    r"""A path as text that every table can hold: bytes that are not UTF-8 become `\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def counts_text(left_out: Mapping[str, int]) -> str:
    """Counts by reason as a phrase: "3 hidden files or folders, 1 links that lead nowhere"."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()) if count)


def every_nth(count: int, every: int) -> list[int]:
    """Indices of every nth of so many slices, from the middle of the first n on; at least one.

    Raises:
      ValueError: `every` is below 1.
    """
    if every < 1:
        raise ValueError(f"every is {every}; it must be 1 (all slices) or more")
    return list(range((every - 1) // 2, count, every)) or [count // 2]
