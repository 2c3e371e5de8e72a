"""Times the train command from its typing to the first step."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

_COMMANDS = ("prepare", "train", "evaluate", "predict", "benchmark")


def time_start(
    *, repeats: int, batch: int, size: int, dtype: str, data_dir: str | None
) -> dict[str, Any]:
    """Seconds from the typed train command to the first step dispatched, and of `--help`.

    Args:
      repeats: starts with a filled compilation cache, after one with an empty cache.
      batch: images of a batch.
      size: side of an image, px.
      dtype: of activations.
      data_dir: where the prepared data set `phantom` is; None is the default.

    Returns:
      `cold_s`, `warm_s` (median) and `COMMAND_help_s` for each command.

    Raises:
      RuntimeError: the command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_CACHE_HOME": folder}
        environment.pop("GLIBC_TUNABLES", None)  # as typed: the command sets it by itself
        seconds = []
        for i in range(1 + repeats):
            options = (
                f"--workdir={folder}/run{i}",
                "--config=configs/default.py",
                "--config.dataset=phantom",
                f"--config.batch_size={batch}",
                f"--config.preprocessing.size={size}",
                f"--config.model.dtype={dtype}",
                *([f"--data_dir={data_dir}"] if data_dir else []),
            )
            command = [sys.executable, "-m", "jaxcovid.train", *options]
            seconds.append(seconds_until("First step dispatched", command, environment))
    result = {"mode": "start", "batch": batch, "size": size, "cold_s": seconds[0]}
    if repeats:
        result["warm_s"] = statistics.median(seconds[1:])
    return result | {f"{name}_help_s": _seconds_of_help(name) for name in _COMMANDS}


def _seconds_of_help(name: str) -> float:
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", f"jaxcovid.{name}", "--help"], check=False, capture_output=True
    )
    return time.perf_counter() - begun


def seconds_until(message: str, typed: Sequence[str], environment: Mapping[str, str]) -> float:
    """Seconds until the log of a command has `message`; then the command is killed.

    Raises:
      RuntimeError: the command ended without it; has its last lines.
    """
    begun = time.perf_counter()
    with subprocess.Popen(typed, stderr=subprocess.PIPE, text=True, env=environment) as process:
        log = []
        for line in process.stderr:
            log.append(line)
            if message in line:
                seconds = time.perf_counter() - begun
                process.kill()
                return seconds
    raise RuntimeError(f"{' '.join(typed)} failed:\n{''.join(log[-20:])}")
