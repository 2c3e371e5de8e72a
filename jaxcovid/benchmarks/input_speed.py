"""Times the input pipeline in turns with a bare loop, and with PyTorch's DataLoader if asked to.

It is timed three times: with all five steps, with those left to the device, and with decoded images
in memory besides, so that nothing is left to the host but to gather them.
"""

import sys
from typing import Any

from jaxcovid.benchmarks import rounds

_CONTESTANTS = "jaxcovid.benchmarks.contestants"


def time_input(
    source: str,
    turns: rounds.Turns,
    *,
    batch: int,
    size: int,
    workers: int,
    torch_python: str | None,
) -> dict[str, Any]:
    """Times the input pipeline.

    Args:
      source: a folder of images.
      turns: rounds and their length.
      batch: images of a batch.
      size: side of the input of the network, px.
      workers: processes; 0 uses threads.
      torch_python: the interpreter that has PyTorch; None leaves PyTorch out.

    Returns:
      The facts and the speed of the pipeline, those with the five steps left to the device as
      `decoding`, those with decoded images in memory as `cached`, those of the bare loop as
      `opencv`, those of PyTorch as `peer`.

    Raises:
      RuntimeError: a contestant failed.
    """
    options = [f"--source={source}", f"--batch={batch}", f"--size={size}", f"--workers={workers}"]

    def command(python: str, module: str, *more: str) -> list[str]:
        return [python, "-m", f"{_CONTESTANTS}.{module}", *options, *more]

    on_device = "--preprocess_on=device"

    commands = {
        "jaxcovid": command(sys.executable, "grain_input"),
        "decoding": command(sys.executable, "grain_input", on_device),
        "cached": command(sys.executable, "grain_input", on_device, "--cache=memory"),
        "opencv": command(sys.executable, "opencv_input"),
    }
    if torch_python:
        commands["peer"] = command(torch_python, "torch_input")
    return rounds.time_contestants(commands, turns)
