"""Signs of life: what each process of a run tells of itself, for `python -m jaxcovid.status`.

`WORKDIR/processes/INDEX.json`, written by its process every few seconds, also while the loop waits
for the others in a step: so one that waits can be told from one that is gone.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxcovid.runtime.files import as_path, write_atomically
from jaxcovid.workdir.run import read_json

FOLDER = "processes"
INTERVAL_S = 5.0
_OPTIONAL = ("step", "seconds_per_step", "images_per_s", "data_stall_share", "replaced_records")
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("process", "processes", "pid", "total_steps"), int),
    **dict.fromkeys(("host", "state"), str),
    **dict.fromkeys(("time", *_OPTIONAL), int | float),
}


class Heartbeat:
    """Writes the file of this process until it is left; use as a context manager."""

    def __init__(self, workdir: Path, *, total_steps: int) -> None:
        """Starts to write at once; files of processes that this run has not are removed."""
        self._path = as_path(workdir) / FOLDER / f"{jax.process_index()}.json"
        self._facts: dict[str, Any] = {
            "process": jax.process_index(),
            "processes": jax.process_count(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "total_steps": total_steps,
            "state": "starting",
        }
        self.ended = "finished"  # what it says when it is left without an error
        self._first: tuple[float, int] | None = None  # time and step of the first beat
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            for beat in read(self._path.parents[1]):
                if beat["process"] >= jax.process_count():
                    (self._path.parent / f"{beat['process']}.json").unlink(missing_ok=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._facts = {**self._facts, "state": "failed" if kind else self.ended}
        self._write()

    def beat(self, step: int, **numbers: float) -> None:
        """Notes a finished step, and numbers of the steps before it."""
        self._first = self._first or (time.monotonic(), step)
        since, first = self._first
        now: dict[str, Any] = {"state": "training", "step": step}
        if step > first:  # validations and saves are part of it
            now["seconds_per_step"] = (time.monotonic() - since) / (step - first)
        self._facts = {**self._facts, **now, **numbers}  # whole, as another thread reads it

    def _run(self) -> None:
        while True:
            self._write()
            if self._stop.wait(INTERVAL_S):
                return

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # a run does not end because nobody can watch it
            content = json.dumps({**self._facts, "time": time.time()})
            write_atomically(self._path, content.encode())


def read(workdir: Path) -> list[dict[str, Any]]:
    """What the processes of a run last told, by their index; empty if none ever did.

    A file that is damaged counts as none.
    """
    beats = []
    for path in (as_path(workdir) / FOLDER).glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            beat = read_json(path)
            if path.stem == str(beat.get("process")) and _is_whole(beat):
                beats.append(beat)
    return sorted(beats, key=lambda beat: beat["process"])


def _is_whole(beat: Mapping[str, Any]) -> bool:
    """True of what `Heartbeat` writes, as far as its readers take it."""
    return all(
        isinstance(beat[name], kind) if name in beat else name in _OPTIONAL
        for name, kind in _TYPES.items()
    )
