"""What a workdir says about itself: `run.json`, written before the first step.

With it, evaluation and prediction need nothing but `--workdir`.
"""

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from jaxcovid.runtime.files import as_path, is_remote, write_atomically

FILE = "run.json"
FORMAT_VERSION = 2
# Options that change how a run is carried out, not what it computes.
FREE_OPTIONS = (
    "workers",
    "log_every_steps",
    "save_every_steps",
    "fsdp",
    "profile",
    "bad_records",
)
# What is asked of the facts, and its types.
_TYPES = {
    "config": {
        "network": str,
        "outputs": str,
        "control": str,
        "model": dict,
        "fusion": dict,
        "parts": dict,
        "preprocessing": dict,
    },
    "dataset": {"name": str, "modality": str, "window": list, "class_names": list},
    "outputs": list,
}
_MAX_BYTES = 2**26  # of a JSON file
_CHANGED_DATA = (
    " The data set of this name holds other images, labels, patients or splits than it did: what "
    "was trained on may now stand in its validation or test split."
)


class WorkdirError(ValueError):
    """A folder that is not a workdir, or one that belongs to another run."""


def read(workdir: Path) -> dict[str, Any]:
    """The facts of a run: `config`, `dataset` (name, digest, ...), `outputs` and `parts`.

    Also `command`, the command line of its start, unless Python or an older version started it.

    Raises:
      WorkdirError: the folder is missing, is not a workdir, or has another version's format.
    """
    path = as_path(workdir) / FILE
    if not path.is_file():
        what = "holds no run.json" if path.parent.is_dir() else "does not exist"
        raise WorkdirError(
            f"{workdir} is not a workdir: it {what}; give the --workdir of a training run"
        )
    try:
        facts = read_json(path)
        if (version := facts.get("format_version")) == FORMAT_VERSION:
            _check_types(facts, _TYPES, "")
            if not facts["outputs"] or not all(isinstance(name, str) for name in facts["outputs"]):
                raise ValueError("outputs are no names")
    except ValueError as error:
        raise WorkdirError(f"{path} is damaged: {error}") from error
    if version != FORMAT_VERSION:
        raise WorkdirError(
            f"{path} has format {version}, this version of jaxcovid reads {FORMAT_VERSION}; use "
            "the one that wrote it"
        )
    return facts


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Keeps a second training out of a workdir while this one is in it.

    The operating system holds the lock for the process (`flock`, on NFS for its client too), so
    that it ends with the process, however that ends.

    Raises:
      WorkdirError: another process holds it; says which, on which host.
      OSError: the folder cannot be written.
    """
    workdir = as_path(workdir)
    if is_remote(workdir):
        logging.warning("%s has no locks: start no second training in it", workdir)
        yield
        return
    import fcntl  # Windows, where networks predict but do not train, has none

    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise WorkdirError(
                f"{workdir} is in use by {file.read().strip() or 'another training'}; wait for its "
                "end, or give another --workdir"
            ) from error
        except OSError as error:
            logging.warning("%s has no locks (%s): start no second training in it", workdir, error)
        else:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file of an object.

    Raises:
      ValueError: it is too large, no JSON or another value than an object.
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"at most {_MAX_BYTES:,} bytes are accepted")
    try:
        found = json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, no object")
    return found


def _check_types(facts: Mapping[str, Any], types: Mapping[str, Any], prefix: str) -> None:
    for key, wanted in types.items():
        kind = dict if isinstance(wanted, dict) else wanted
        if not isinstance(found := facts.get(key), kind):
            raise ValueError(f"{prefix}{key} is {str(found)[:50]}, no {kind.__name__}")
        if isinstance(wanted, dict):
            _check_types(found, wanted, f"{prefix}{key}.")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def claim(workdir: Path, facts: Mapping[str, Any]) -> None:
    """Writes the facts into a new workdir, or checks that a used one holds the same run.

    Args:
      workdir: created if missing.
      facts: see `read`; JSON values only. A used workdir keeps the `command` of its first start.

    Raises:
      WorkdirError: the workdir belongs to a run with other facts; all differences are named.
      OSError: it cannot be written.
    """
    workdir = as_path(workdir)
    facts = json.loads(json.dumps({"format_version": FORMAT_VERSION, **facts}))
    path = workdir / FILE
    if not path.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(facts, indent=1) + "\n").encode())
        return
    stored, wanted = _flat(read(workdir)), _flat(facts)
    free = {f"config.{name}" for name in FREE_OPTIONS}
    free |= {"versions.jaxcovid", "versions.jax", "command"}
    different = [
        f"  {key}: {stored.get(key)!r} in the workdir, {wanted.get(key)!r} now"
        for key in sorted(stored.keys() | wanted.keys())
        if key not in free and stored.get(key) != wanted.get(key)
    ]
    if different:
        changed = stored.get("dataset.digest") != wanted.get("dataset.digest")
        same_name = stored.get("dataset.name") == wanted.get("dataset.name")
        raise WorkdirError(
            f"{workdir} belongs to another run:\n"
            + "\n".join(different)
            + "\nResume with the same settings, or give a new --workdir."
            + (_CHANGED_DATA if changed and same_name else "")
        )
    if (first := stored.get("command")) and first != wanted.get("command"):
        logging.info("%s was started by another command, which it keeps:\n  %s", workdir, first)
