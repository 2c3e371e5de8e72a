"""Paths as users name them, and files that are whole or absent whenever a program is killed."""

import errno
import json
import os
from pathlib import Path
from typing import Any, cast

from etils import epath


def home() -> Path:
    """The user's home folder.

    Raises:
      ValueError: there is none: HOME is not set and the system does not know the user.
    """
    try:
        folder = Path.home()
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():
        raise ValueError("there is no home folder: set HOME")
    return folder


def expand_home(name: str) -> str:
    """The name with `~` and `~USER` in front replaced by the home folder.

    Raises:
      ValueError: there is no such folder.
    """
    if not name.startswith("~"):
        return name
    expanded = os.path.expanduser(name)  # noqa: PTH111
    if not Path(expanded).is_absolute():
        raise ValueError(f"{name} names a home folder that is not there; give the whole path")
    return expanded


def as_path(name: str | os.PathLike[str]) -> Path:
    """A folder or file as the user names it: a path, `file://PATH` or `gs://BUCKET/PATH`.

    What lies in an object store is an `epath.Path`, which has the methods of `pathlib.Path` that
    are used here but no locks and no appending.

    Raises:
      ValueError: another kind of URL, `s3://` among them: orbax 0.12.8 cannot write there; or `~`
        without a home folder.
    """
    if not isinstance(name, str):
        return cast(Path, name)
    scheme, mark, rest = name.partition("://")
    if mark and scheme not in ("file", "gs"):
        raise ValueError(f"{name} is no folder; give a path, file://PATH or gs://BUCKET/PATH")
    if scheme == "gs" and mark:
        return epath.Path(name)
    return Path(rest if mark else expand_home(name))


def is_remote(path: Path) -> bool:
    """True of a path in an object store."""
    return "://" in os.fspath(path)


def is_disk_full(error: BaseException) -> bool:
    """True of an error that a full disk makes."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name and renames it: a reader sees all of it or nothing.

    An object store does so by itself.

    Raises:
      OSError: the file cannot be written (no permission, disk full); says which and why.
    """
    if is_remote(path):
        path.write_bytes(content)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if temporary.exists():
            temporary.unlink()
        raise OSError(
            error.errno,
            f"cannot write the file ({error.strerror}); make the folder writable or free some "
            f"space: {len(content):,} bytes are needed",
            str(path),
        ) from error


_MAX_JSON_BYTES = 2**26


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file that holds an object.

    Raises:
      ValueError: it is too large, no JSON or another value than an object.
      OSError: it cannot be read.
    """
    content = bytearray()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            content += piece
            if len(content) > _MAX_JSON_BYTES:
                raise ValueError(f"at most {_MAX_JSON_BYTES:,} bytes are accepted")
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, no object")
    return value
