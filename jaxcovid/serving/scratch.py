"""The folder with the files of open pages: one for each server, gone when the server is."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "jaxcovid-serve-"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is removed in the end; those of killed servers are removed at once.

    A server has a lock on its folder, which ends with it in whatever way it ends. Its number would
    not tell: in a container that of the killed one is that of the next.
    """
    root = Path(tempfile.gettempdir())
    for old in root.glob(f"{_PREFIX}*"):
        _remove_left(old)
    folder, lock = _make(root)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make(root: Path) -> tuple[Path, int]:
    """A folder that only this user reads, and its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        lock = _lock(folder)
        if lock is not None and folder.exists():
            return folder, lock
        if lock is not None:  # a server that starts as well has taken it for one that was left
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """A descriptor with the lock; None if another has it, or this is no folder of this user."""
    with contextlib.suppress(OSError):
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        with contextlib.suppress(OSError):
            if os.fstat(lock).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
        os.close(lock)
    return None


def _remove_left(folder: Path) -> None:
    """Removes a folder if its server has ended."""
    lock = _lock(folder)
    if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
