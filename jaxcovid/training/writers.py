"""Where a run's numbers and pictures go: the log, `metrics.jsonl`, and TensorBoard through clu.

clu's writers need TensorFlow, which takes seconds to import and is not there on a slim GPU image.
So it is imported at the first write, after the first step was dispatched; where it is missing, the
log says so once and the numbers stay in `metrics.jsonl`.
"""

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from jaxcovid.files import as_path, is_remote, write_atomically

FILE = "metrics.jsonl"


def read(workdir: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`: `step` and numbers by name, None if not finite."""
    path = as_path(workdir) / FILE
    lines = path.read_text().splitlines() if path.exists() else []
    # One that is being written, or was when the run was killed, is cut short.
    return [json.loads(line) for line in lines if line.endswith("}")]


def _line(numbers: Mapping[str, Any]) -> str:
    return json.dumps(numbers) + "\n"


class Writer:
    """Writes scalars and images of one run; only the first process writes."""

    def __init__(self, workdir: Path, *, start_step: int, enabled: bool = True) -> None:
        """Continues the workdir's files; lines of steps after `start_step` are dropped.

        Args:
          workdir: the run's folder.
          start_step: the step that the run resumes from; it will write the later ones again.
          enabled: False on all processes but the first.
        """
        self._workdir = as_path(workdir)
        self._enabled = enabled
        self._clu: Any = None
        self._asked_for_clu = False
        if not enabled:
            return
        path = self._workdir / FILE
        kept = [_line(found) for found in read(workdir) if found["step"] <= start_step]
        # Nothing can be appended to what lies in an object store: there it is written anew.
        self._kept = kept if is_remote(path) else []
        write_atomically(path, "".join(kept).encode())
        self._file = None if is_remote(path) else path.open("a")

    def _tensorboard(self) -> Any:
        """The writer of clu, opened at the first call; None without TensorFlow."""
        if not self._asked_for_clu:
            self._asked_for_clu = True
            missing = [
                name
                for name in ("tensorflow", "tensorboard", "clu")
                if importlib.util.find_spec(name) is None
            ]
            if missing:
                logging.warning(
                    "No TensorBoard files: %s not installed. Numbers are in the log and in %s.",
                    " and ".join(missing),
                    self._workdir / FILE,
                )
            else:
                # TensorFlow only writes files here; without this it talks about its kernels.
                os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
                from clu import metric_writers

                self._clu = metric_writers.create_default_writer(self._workdir / "tensorboard")
        return self._clu

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes named numbers of one step."""
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
            (self._workdir / FILE).write_text("".join(self._kept))
        if writer := self._tensorboard():
            writer.write_scalars(step, numbers)
        else:
            text = ", ".join(f"{name}={value:.6g}" for name, value in numbers.items())
            logging.info("[%d] %s", step, text)

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        """Writes pictures uint8 [n, h, w, 3] to TensorBoard, if there is one."""
        if self._enabled and (writer := self._tensorboard()):
            writer.write_images(step, {name: images})

    def close(self) -> None:
        """Ends the files."""
        if self._enabled and self._file:
            self._file.close()
        if self._clu is not None:
            self._clu.close()
