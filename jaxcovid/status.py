"""Tells how a training is going, from what its processes write into the workdir.

    python -m jaxcovid.status --workdir=runs/covid_ct

Exit status: 0 if it goes on or is finished, 1 if it has ended before its time or a process is
silent. Clocks of several hosts must agree to a few seconds.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from absl import app
from etils import epath

from jaxcovid.runtime import cli
from jaxcovid.runtime.files import as_path

SILENT_S = 30.0  # without a sign of life; processes give one every 5 seconds
_SLOW_SHARE = 0.1  # of the time that a process makes the others wait for its images


def report(workdir: Path, *, now: float) -> tuple[str, bool]:
    """What `main` prints, and whether all is well.

    Args:
      workdir: of a training run.
      now: seconds since the epoch.

    Raises:
      WorkdirError: not a workdir.
    """
    from jaxcovid.workdir import checkpoints, heartbeat, metric_writer
    from jaxcovid.workdir import run as workdirs

    workdirs.read(workdir)
    beats, log = heartbeat.read(workdir), metric_writer.read(workdir)
    folder = as_path(workdir) / heartbeat.FOLDER
    if not beats:
        damaged = f"no file in {folder} can be read" if list(folder.glob("*.json")) else None
        return f"{workdir}: {damaged or 'no process has started to train yet'}", False
    lines, first = [], beats[0]  # that of process 0, if it has one
    step, total = first.get("step", 0), first["total_steps"]
    states = {process["process"]: _state(process, beats, now) for process in beats}
    missing = sorted(set(range(first["processes"])) - set(states))
    state = states[first["process"]]
    lines.append(f"{workdir}: step {step:,} of {total:,} ({step / max(1, total):.0%}), {state}")
    if first["process"] > 0:
        lines.append(f"  as process {first['process']} tells: process 0 tells nothing")
    if "images_per_s" in first and "data_stall_share" in first:
        rate = f"{first['images_per_s']:.3g} images/s"
        lines.append(f"  {rate}, {first['data_stall_share']:.1%} of the time waiting for images")
    if replaced := sum(process.get("replaced_records", 0) for process in beats):
        lines.append(f"  {replaced:,} records could not be read; others stand in their place")
    saved = checkpoints.steps(workdir)
    if saved:
        path = epath.Path(workdir / checkpoints.FOLDER / str(saved[-1]))
        lines.append(f"  last checkpoint: step {saved[-1]:,}, {_ago(now - path.stat().mtime)}")
    else:
        lines.append("  no checkpoint yet")
    validations = [line for line in log if line.get("validation/auc") is not None]
    if validations:
        best = max(validations, key=lambda line: line["validation/auc"])
        lines.append(
            f"  best validation AUC: {best['validation/auc']:.4f} at step {best['step']:,}"
        )
    if first["state"] == "training" and "seconds_per_step" in first:
        left = (total - step) * first["seconds_per_step"]
        end = time.strftime("%Y-%m-%d %H:%M", time.localtime(now + left))
        lines.append(f"  estimated end: in {timedelta(seconds=round(left))}, {end}")
    for process in beats:
        stall = process.get("data_stall_share")
        waits = "" if stall is None else f", {stall:.1%} waiting for images"
        lines.append(
            f"  process {process['process']} on {process['host']}, pid {process['pid']}: step "
            f"{process.get('step', 0):,}{waits}, heard {_ago(now - process['time'])}: "
            f"{states[process['process']]}"
        )
    for index in missing:
        file = folder / f"{index}.json"
        said = f"{file} is damaged" if file.exists() else "never heard"
        lines.append(f"  process {index}: {said}")
    good = ("training", "starting", "finished")
    well = not missing and all(state.startswith(good) for state in states.values())
    return "\n".join(lines), well


def _state(process: Mapping[str, Any], beats: Sequence[Mapping[str, Any]], now: float) -> str:
    """What a process does, in words."""
    if process["state"] in ("finished", "interrupted", "failed"):
        return process["state"]
    if now - process["time"] > SILENT_S:
        return "SILENT: killed, or its host is gone"
    stalls = [beat.get("data_stall_share", 0.0) for beat in beats]
    own = process.get("data_stall_share", 0.0)
    if len(beats) > 1 and own > _SLOW_SHARE and own > 2 * min(stalls):
        return f"{process['state']}, SLOW: the others wait for its images"
    return process["state"]


def _ago(seconds: float) -> str:
    return f"{timedelta(seconds=max(0, round(seconds)))} ago"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = cli.make_parser("status", __doc__)
    parser.add_argument("--workdir", required=True, help="folder of the run")
    return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> None:
    """Prints the report."""
    with cli.user_errors():
        text, well = report(as_path(args.workdir), now=time.time())
    print(text)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
