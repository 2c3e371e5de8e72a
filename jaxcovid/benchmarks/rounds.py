"""Times programs against each other: each in a process of its own, in turns.

The speed of a shared machine drifts from minute to minute, so that two programs timed one after
the other are not comparable. Here all contestants warm up first; then each runs a round of a few
steps while the others wait, over and over, and what is compared is the ratio within a turn. The
first step of a round is not counted.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def serve(
    facts: Mapping[str, Any], run: Callable[[int], None], finish: Callable[[], Mapping[str, Any]]
) -> None:
    """The side of a contestant, once it is warm: runs rounds until its standard input ends.

    Args:
      facts: about the contestant, printed as the first line.
      run: runs so many steps and returns when the last one is done.
      finish: further facts when all is done, printed as the last line.
    """
    answer = sys.stdout
    print(json.dumps(facts), file=answer, flush=True)
    for line in sys.stdin:
        run(1)  # after the others' turn, caches and freed pages are theirs
        start = time.perf_counter()
        run(int(line))
        print(json.dumps(time.perf_counter() - start), file=answer, flush=True)
    print(json.dumps(finish()), file=answer, flush=True)


def forget_peak_memory() -> None:
    """Lets the kernel count this process's peak of resident memory from here on (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # no Linux, or not allowed: the peak then includes the warm-up
        return


def peak_memory_gib() -> float | None:
    """Peak of this process's resident memory, GiB; None where the kernel does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["VmHWM"].split()[0]) / 2**20


class Contestant:
    """The other side: a contestant's process."""

    def __init__(self, command: Sequence[str]) -> None:
        """Starts it; `command` is one that ends in `serve`."""
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.facts: dict[str, Any] = {}

    def _read(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{' '.join(self._process.args)} ended with status {self._process.wait()}; "
                "see its message above"
            )
        return json.loads(line)

    def warm_up(self) -> None:
        """Waits until it is ready and notes its facts."""
        self.facts = self._read()

    def round(self, steps: int) -> float:
        """Seconds a step over so many."""
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._read() / steps

    def finish(self) -> None:
        """Ends it and adds its last facts."""
        self._process.stdin.close()
        self.facts |= self._read()
        self._process.wait()

    def kill(self) -> None:
        """Ends it at once, if it still runs."""
        self._process.kill()
        self._process.wait()


def _steps_of(contestant: Contestant, seconds: float) -> int:
    """How many steps take so long; what was prepared before the first does not deceive it."""
    steps = 1
    while (taken := contestant.round(steps) * steps) < seconds / 2:
        steps *= 2
    return max(1, round(steps * seconds / taken))


def contest(
    commands: Mapping[str, Sequence[str]], *, rounds: int, seconds: float
) -> dict[str, tuple[dict[str, Any], list[float]]]:
    """Facts and seconds a step in each round, by contestant.

    Args:
      commands: by name; each ends in `serve`. They warm up one after the other.
      rounds: turns that are counted; shorter ones go before.
      seconds: about how long a round of each takes.

    Raises:
      RuntimeError: a contestant failed.
    """
    contestants: dict[str, Contestant] = {}
    try:
        for name, command in commands.items():
            contestants[name] = Contestant(command)
            contestants[name].warm_up()
        steps = {name: _steps_of(contestant, seconds) for name, contestant in contestants.items()}
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, contestant in contestants.items():
                times[name].append(contestant.round(steps[name]))
        for contestant in contestants.values():
            contestant.finish()
    finally:
        for contestant in contestants.values():
            contestant.kill()
    return {name: (contestants[name].facts, times[name]) for name in contestants}


@dataclasses.dataclass(frozen=True)
class Turns:
    """How long contestants are timed.

    Attributes:
      rounds: turns that are counted.
      seconds: about how long a round of each takes.
    """

    rounds: int = 9
    seconds: float = 5.0


def time_contestants(commands: Mapping[str, Sequence[str]], turns: Turns) -> dict[str, Any]:
    """Facts and speed of the contestant `jaxcovid`, with those of the others below their names.

    Args:
      commands: by name, see `contest`.
      turns: rounds and their length.

    Returns:
      The facts with `s_per_step` (median of the rounds), `images_per_s`, `s_per_step_of_rounds`; of
      every other contestant also `ratio`: how many times its speed `jaxcovid` has.

    Raises:
      RuntimeError: a contestant failed.
    """
    timed = contest(commands, rounds=turns.rounds, seconds=turns.seconds)
    results = {}
    for name, (facts, times) in timed.items():
        median = statistics.median(times)
        results[name] = {
            **facts,
            "s_per_step": median,
            "images_per_s": facts["images_per_step"] / median,
            "s_per_step_of_rounds": times,
        }
    ours = results.pop("jaxcovid")
    for other in results.values():
        pairs = zip(ours["s_per_step_of_rounds"], other["s_per_step_of_rounds"], strict=True)
        ratios = [theirs / own for own, theirs in pairs]
        other["ratio"] = {
            "median": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
        }
    return ours | results
