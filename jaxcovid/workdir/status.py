"""How a training is going, in words, from what its processes write into the workdir."""

import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from etils import epath

from jaxcovid.workdir import checkpoint_facts, heartbeat, metric_writer
from jaxcovid.workdir.heartbeat import Beat
from jaxcovid.workdir.run import Run

SILENT_S = 30.0  # without a sign of life; processes give one every 5 seconds
_SLOW_SHARE = 0.1  # of the time that a process makes the others wait for its images


def report(workdir: Path, *, now: float) -> tuple[str, bool]:
    """The state of a training, and whether all is well.

    Args:
      workdir: of the training.
      now: seconds since the epoch.

    Raises:
      WorkdirError: not a workdir.
    """
    Run.load(workdir)
    beats, folder = heartbeat.read(workdir), workdir / heartbeat.FOLDER
    if not beats:
        damaged = f"no file in {folder} can be read" if list(folder.glob("*.json")) else None
        return f"{workdir}: {damaged or 'no process has started to train yet'}", False
    states = {beat.process: _state(beat, beats, now) for beat in beats}
    missing = sorted(set(range(beats[0].processes)) - set(states))
    lines = [*_summary(workdir, beats, states[beats[0].process], now)]
    for beat in beats:
        stall = beat.data_stall_share
        waits = "" if stall is None else f", {stall:.1%} waiting for images"
        lines.append(
            f"  process {beat.process} on {beat.host}, pid {beat.pid}: step {beat.step or 0:,}"
            f"{waits}, heard {_ago(now - beat.time)}: {states[beat.process]}"
        )
    for index in missing:
        file = folder / f"{index}.json"
        lines.append(
            f"  process {index}: {f'{file} is damaged' if file.exists() else 'never heard'}"
        )
    good = ("training", "starting", "finished")
    well = not missing and all(state.startswith(good) for state in states.values())
    return "\n".join(lines), well


def _summary(workdir: Path, beats: Sequence[Beat], state: str, now: float) -> list[str]:
    """What is true of the run as a whole; `state` is that of its first process."""
    first = beats[0]  # that of process 0, if it has one
    step, total = first.step or 0, first.total_steps
    lines = [f"{workdir}: step {step:,} of {total:,} ({step / max(1, total):.0%}), {state}"]
    if first.process > 0:
        lines.append(f"  as process {first.process} reports: process 0 reports nothing")
    if first.images_per_s is not None and first.data_stall_share is not None:
        rate = f"{first.images_per_s:.3g} images/s"
        lines.append(f"  {rate}, {first.data_stall_share:.1%} of the time waiting for images")
    if replaced := sum(beat.replaced_records or 0 for beat in beats):
        lines.append(f"  {replaced:,} records could not be read; others take their place")
    saved = checkpoint_facts.steps(workdir)
    if saved:
        path = epath.Path(workdir / checkpoint_facts.FOLDER / str(saved[-1]))
        lines.append(f"  last checkpoint: step {saved[-1]:,}, {_ago(now - path.stat().mtime)}")
    else:
        lines.append("  no checkpoint yet")
    log = metric_writer.read(workdir)
    for name, key in (
        ("AUC", "validation/auc"),
        ("Dice of the lesion", "validation/dice_lesion"),
        ("AUC of a linear probe", "validation/probe_auc"),
    ):
        validations = [line for line in log if line.get(key) is not None]
        if validations:
            best = max(validations, key=lambda line: line[key])
            lines.append(f"  best validation {name}: {best[key]:.4f} at step {best['step']:,}")
    if first.state == "training" and first.seconds_per_step is not None:
        left = (total - step) * first.seconds_per_step
        end = time.strftime("%Y-%m-%d %H:%M", time.localtime(now + left))
        lines.append(f"  estimated end: in {timedelta(seconds=round(left))}, {end}")
    return lines


def _state(beat: Beat, beats: Sequence[Beat], now: float) -> str:
    """What a process does, in words."""
    if beat.state in ("finished", "interrupted", "failed"):
        return beat.state
    if now - beat.time > SILENT_S:
        return "SILENT: killed, or its host is gone"
    least = min(other.data_stall_share or 0.0 for other in beats)
    own = beat.data_stall_share or 0.0
    if len(beats) > 1 and own > _SLOW_SHARE and own > 2 * least:
        return f"{beat.state}, SLOW: the others wait for its images"
    return beat.state


def _ago(seconds: float) -> str:
    return f"{timedelta(seconds=max(0, round(seconds)))} ago"
