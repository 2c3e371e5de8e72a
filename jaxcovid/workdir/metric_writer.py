"""Where a run's numbers and pictures go: the log, `metrics.jsonl`, and TensorBoard through clu.

clu's writers need TensorFlow, which takes seconds to import and is not there on a slim GPU image.
So a thread imports it at the first write, while training continues; where it is missing, the log
says so once.
"""

import concurrent.futures
import importlib.util
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from jaxcovid.runtime.files import is_remote, write_atomically

FILE = "metrics.jsonl"
# An object store takes whole files only: there the lines are written together, so often.
REMOTE_INTERVAL_S = 30.0


def read(workdir: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`: `step` and numbers by name, None if not finite."""
    path = workdir / FILE
    lines = path.read_text().splitlines() if path.exists() else []
    # One that is being written, or was when the run was killed, is cut short.
    return [json.loads(line) for line in lines if line.endswith("}")]


def _line(numbers: Mapping[str, Any]) -> str:
    return json.dumps(numbers) + "\n"


class Writer:
    """Writes scalars and images of one run; only the first process writes."""

    def __init__(
        self, workdir: Path, *, start_step: int, enabled: bool = True, revalidates: bool = False
    ) -> None:
        """Continues the workdir's files; lines of steps after `start_step` are dropped.

        Args:
          workdir: the run's folder.
          start_step: the step that the run resumes from; it will write the later ones again.
          enabled: False on all processes but the first.
          revalidates: the run will validate `start_step`, so that its validation is dropped too.
        """
        self._workdir = workdir
        self._enabled = enabled
        if not enabled:
            return
        # A single one, so that TensorBoard gets everything in order.
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._tensorboard: Any = None
        self._asked_for_tensorboard = False
        path = self._workdir / FILE
        kept = [
            _line(line)
            for line in read(workdir)
            if line["step"] < start_step + (not (revalidates and "validation/loss" in line))
        ]
        self._kept = kept if is_remote(path) else []
        self._unwritten, self._written = False, time.monotonic()
        write_atomically(path, "".join(kept).encode())
        self._file = None if is_remote(path) else path.open("a")

    def _to_tensorboard(self, write: Callable[[Any], None]) -> None:
        """Lets the thread call `write` with clu's writer, if there is one.

        A failure ends the TensorBoard files and not the run, whose numbers are in `metrics.jsonl`.
        """

        def in_thread(asked_before: bool) -> None:
            try:
                if not asked_before:
                    self._tensorboard = _open_tensorboard(self._workdir)
                if self._tensorboard:
                    write(self._tensorboard)
            except Exception as error:
                logging.warning("The TensorBoard files end here: %s", error)
                self._tensorboard = None

        self._thread.submit(in_thread, self._asked_for_tensorboard)
        self._asked_for_tensorboard = True

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes named numbers of one step.

        Raises:
          OSError: `metrics.jsonl` cannot be written.
        """
        if not self._enabled:
            return
        numbers = {name: float(value) for name, value in values.items()}
        finite = {k: v if np.isfinite(v) else None for k, v in numbers.items()}
        line = _line({"step": step, **finite})
        if self._file:
            self._file.write(line)
            self._file.flush()
        else:
            self._kept.append(line)
            self._unwritten = True
            if time.monotonic() - self._written >= REMOTE_INTERVAL_S:
                self.flush()
        text = ", ".join(f"{name}={value:.6g}" for name, value in numbers.items())
        logging.info("[%d] %s", step, text)
        self._to_tensorboard(lambda writer: writer.write_scalars(step, numbers))

    def flush(self) -> None:
        """Writes the lines that an object store has not got yet; call it before a checkpoint.

        A run that resumes from the checkpoint writes the lines behind it again, not those before.

        Raises:
          OSError: `metrics.jsonl` cannot be written.
        """
        if self._enabled and self._unwritten:
            write_atomically(self._workdir / FILE, "".join(self._kept).encode())
            self._unwritten, self._written = False, time.monotonic()

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        """Writes pictures uint8 [n, h, w, 3] to TensorBoard, if there is one."""
        if self._enabled:
            self._to_tensorboard(lambda writer: writer.write_images(step, {name: images}))

    def close(self) -> None:
        """Waits until everything is written and ends the files."""
        if not self._enabled:
            return
        self.flush()
        if self._file:
            self._file.close()
        if self._asked_for_tensorboard:
            self._to_tensorboard(lambda writer: writer.close())
        self._thread.shutdown()


def _open_tensorboard(workdir: Path) -> Any:
    """The writer of TensorBoard files; None, and a line in the log, where a package is missing."""
    missing = [
        name
        for name in ("tensorflow", "tensorboard", "clu")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        logging.warning(
            "No TensorBoard files: %s not installed. Numbers are in the log and in %s.",
            " and ".join(missing),
            workdir / FILE,
        )
        return None
    # TensorFlow only writes files here; without this it talks about its kernels.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from clu import metric_writers

    return metric_writers.SummaryWriter(str(workdir / "tensorboard"))
