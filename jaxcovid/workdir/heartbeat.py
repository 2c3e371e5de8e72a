"""Signs of life: what each process of a run reports about itself, for `python -m jaxcovid.status`.

`WORKDIR/processes/INDEX.json`, written by its process every few seconds, also while the loop waits
for the others in a step: so one that waits can be told from one that is gone.
"""

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxcovid.runtime.files import read_json, write_atomically

FOLDER = "processes"
INTERVAL_S = 5.0


@dataclass(frozen=True)
class Beat:
    """The last sign of life of a process.

    Attributes:
      process: its index.
      processes: how many the run has.
      host: where it runs.
      pid: its process id there.
      total_steps: of the training.
      state: `starting`, `training`, `finished`, `interrupted` or `failed`.
      time: of the sign, seconds since the epoch; 0 before it is written.
      step: last finished step.
      seconds_per_step: since its first step, validations and saves included.
      images_per_s: of the last line of the log, as are the next two.
      data_stall_share: of the time that it waited for images.
      replaced_records: records that could not be read, so far.
    """

    process: int
    processes: int
    host: str
    pid: int
    total_steps: int
    state: str
    time: float = 0.0
    step: int | None = None
    seconds_per_step: float | None = None
    images_per_s: float | None = None
    data_stall_share: float | None = None
    replaced_records: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of its file."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v is not None}


_NUMBERS = ("time", "step", "seconds_per_step", "images_per_s", "data_stall_share")
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("process", "processes", "pid", "total_steps"), int),
    **dict.fromkeys(("host", "state"), str),
    **dict.fromkeys((*_NUMBERS, "replaced_records"), int | float),
}
_REQUIRED = ("process", "processes", "host", "pid", "total_steps", "state", "time")


class Heartbeat:
    """Writes the file of this process until it is left; use as a context manager."""

    def __init__(self, workdir: Path, *, total_steps: int) -> None:
        """Starts to write at once; files of processes that this run has not are removed."""
        self._workdir = workdir
        self._path = workdir / FOLDER / f"{jax.process_index()}.json"
        self._beat = Beat(
            process=jax.process_index(),
            processes=jax.process_count(),
            host=socket.gethostname(),
            pid=os.getpid(),
            total_steps=total_steps,
            state="starting",
        )
        self.ended = "finished"  # its state when it is left without an error
        self._first: tuple[float, int] | None = None  # time and step of the first beat
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            for beat in read(self._workdir):
                if beat.process >= jax.process_count():
                    (self._path.parent / f"{beat.process}.json").unlink(missing_ok=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._beat = dataclasses.replace(self._beat, state="failed" if kind else self.ended)
        self._write()

    def beat(self, step: int, **numbers: Any) -> None:
        """Notes a finished step, and fields of `Beat` about the steps before it."""
        self._first = self._first or (time.monotonic(), step)
        since, first = self._first
        if step > first:
            numbers["seconds_per_step"] = (time.monotonic() - since) / (step - first)
        # Replaced as a whole, as another thread reads it.
        self._beat = dataclasses.replace(self._beat, state="training", step=step, **numbers)

    def _run(self) -> None:
        while True:
            self._write()
            if self._stop.wait(INTERVAL_S):
                return

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # a run does not end because nobody can watch it
            beat = dataclasses.replace(self._beat, time=time.time())
            write_atomically(self._path, json.dumps(beat.to_json()).encode())


def read(workdir: Path) -> list[Beat]:
    """The last signs of life of a run's processes, by their index; a damaged file is left out."""
    beats = []
    for path in (workdir / FOLDER).glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            content = read_json(path)
            if path.stem == str(content.get("process")) and _is_whole(content):
                beats.append(Beat(**{name: content[name] for name in _KINDS if name in content}))
    return sorted(beats, key=lambda beat: beat.process)


def _is_whole(content: dict[str, Any]) -> bool:
    """True of what `Heartbeat` writes, as far as its readers use it."""
    return all(name in content for name in _REQUIRED) and all(
        isinstance(content[name], kind) for name, kind in _KINDS.items() if name in content
    )
