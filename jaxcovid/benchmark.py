"""Measures the speed of training, inference, input and start, beside PyTorch if asked to.

python -m jaxcovid.benchmark train --batch=16 --peer=torch
python -m jaxcovid.benchmark train --batch=16 --peer=linen
python -m jaxcovid.benchmark infer --batch=16 --dtype=bfloat16 --json=infer.json
python -m jaxcovid.benchmark input --source=COVID-CT/Images-processed --workers=2 --peer=torch
python -m jaxcovid.benchmark start
python -m jaxcovid.benchmark growth --peer=torch --plot=growth.png

With a peer both run in turns, and the ratio is that of each turn: a machine's speed drifts. `linen`
is the same network as it is usually written in Flax. `start` types the train command on the
prepared data set `phantom`, with an empty and a filled compilation cache. `growth` times the train
step over batches and sizes of images.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app

from jaxcovid.benchmarks import growth_figures, rounds
from jaxcovid.runtime import cli
from jaxcovid.runtime.user_errors import user_errors

PEERS = ("torch", "torch_compile", "linen")


def network(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times the train step or the forward pass.

    Returns:
      The contestant's facts (see `benchmarks.network`), its speed, shares of the machine's rates;
      with a peer also `peer` and `ratio`.

    Raises:
      RuntimeError: a contestant failed.
    """
    found = _timed(_network_commands(arguments), arguments)
    for amount, rate, share in (
        ("flops", "matmul_flops_per_s", "share_of_matmul_rate"),
        ("bytes_accessed", "copy_bytes_per_s", "share_of_copy_rate"),
    ):
        found[f"{amount}_per_s"] = found[amount] / found["s_per_step"]
        found[share] = found[f"{amount}_per_s"] / found[rate]
    return found


def _network_commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The contestants of `network`."""
    shared = [f"--{name}={getattr(arguments, name)}" for name in ("batch", "size", "dtype")]
    commands = {"jaxcovid": [sys.executable, "-m", "jaxcovid.benchmarks.network", arguments.mode]}
    commands["jaxcovid"] += shared
    if arguments.devices:
        commands["jaxcovid"].append(f"--devices={arguments.devices}")
    if arguments.peer == "linen":
        commands["peer"] = [*commands["jaxcovid"], "--linen"]
    elif arguments.peer:
        peer = [arguments.peer_python, "-m", "jaxcovid.benchmarks.torch_reference"]
        commands["peer"] = [*peer, arguments.mode, *shared]
        if arguments.peer == "torch_compile":
            commands["peer"].append("--compile")
    return commands


_TIMED = (*((n, 256) for n in (1, 2, 4, 8, 16, 32)), *((8, n) for n in (128, 192, 384, 512)))
_COMPILED = ((64, 256), (128, 256), (256, 256), (8, 768), (8, 1024))  # may not fit the machine


def growth(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times the train step over batches and sizes; of larger ones only compiles it.

    Returns:
      `rows`: for each batch and size what `network` returns, of larger ones the facts alone.

    Raises:
      RuntimeError: a contestant failed.
    """
    rows = []
    for batch, size in (*_TIMED, *_COMPILED):
        shape = {"mode": "train", "batch": batch, "size": size}
        cell = argparse.Namespace(**{**vars(arguments), **shape})
        if batch == 1:
            cell.peer = None  # PyTorch refuses to normalise the one number of the pyramid's top
        commands = _network_commands(cell)
        if (batch, size) in _TIMED:
            rows.append(_timed(commands, cell))
        else:
            compiling = [*commands["jaxcovid"], "--compile_only"]
            done = subprocess.run(compiling, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout))
        print(growth_figures.line(rows[-1]), flush=True)
    return {"mode": "growth", "rows": rows}


def images(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times the input pipeline; returns as `network` does, with the bare loop as `opencv`.

    Raises:
      RuntimeError: a contestant failed.
    """
    shared = [f"--{name}={getattr(arguments, name)}" for name in ("source", "batch", "size")]
    shared.append(f"--workers={arguments.workers}")
    program = ["-m", "jaxcovid.benchmarks.input"]
    commands = {
        "jaxcovid": [sys.executable, *program, "grain", *shared],
        "opencv": [sys.executable, *program, "opencv", *shared],
    }
    if arguments.peer:
        commands["peer"] = [arguments.peer_python, *program, "torch", *shared]
    return _timed(commands, arguments)


def _timed(commands: Mapping[str, Sequence[str]], arguments: argparse.Namespace) -> dict[str, Any]:
    """Facts and speed of the first contestant, with those of the others below their names."""
    timed = rounds.contest(commands, rounds=arguments.rounds, seconds=arguments.seconds)
    found: dict[str, Any] = {}
    ours = timed["jaxcovid"][1]
    for name, (facts, times) in timed.items():
        median = statistics.median(times)
        side = {
            **facts,
            "s_per_step": median,
            "images_per_s": facts["images_per_step"] / median,
            "s_per_step_of_rounds": times,
        }
        if name == "jaxcovid":
            found |= side
            continue
        ratios = [theirs / own for own, theirs in zip(ours, times, strict=True)]
        ratio = {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
        found[name] = {**side, "ratio": ratio}
    return found


def start(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds from the typed train command to the first step dispatched, and of `--help`.

    Raises:
      RuntimeError: the command failed.
    """
    found: dict[str, Any] = {"mode": "start", "batch": arguments.batch, "size": arguments.size}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_CACHE_HOME": folder}
        environment.pop("GLIBC_TUNABLES", None)  # as typed: the command sets it by itself
        for i, name in enumerate(["cold_s", *["warm_s"] * arguments.rounds]):
            options = (
                f"--workdir={folder}/run{i}",
                "--config=configs/quickstart.py",
                f"--config.batch_size={arguments.batch}",
                f"--config.preprocessing.size={arguments.size}",
                f"--config.model.dtype={arguments.dtype}",
                *([f"--data_dir={arguments.data_dir}"] if arguments.data_dir else []),
            )
            seconds = _seconds_until(
                "First step dispatched",
                [sys.executable, "-m", "jaxcovid.train", *options],
                environment,
            )
            found.setdefault(name, []).append(seconds)
    found = {k: statistics.median(v) if isinstance(v, list) else v for k, v in found.items()}
    for name in ("prepare", "train", "evaluate", "predict", "benchmark"):
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", f"jaxcovid.{name}", "--help"], check=False, capture_output=True
        )
        found[f"{name}_help_s"] = time.perf_counter() - begun
    return found


def _seconds_until(message: str, typed: Sequence[str], environment: Mapping[str, str]) -> float:
    """Seconds until a command's log says `message`; then the command is killed."""
    begun = time.perf_counter()
    with subprocess.Popen(typed, stderr=subprocess.PIPE, text=True, env=environment) as process:
        said = []
        for line in process.stderr:
            said.append(line)
            if message in line:
                seconds = time.perf_counter() - begun
                process.kill()
                return seconds
    raise RuntimeError(f"{' '.join(typed)} failed:\n{''.join(said[-20:])}")


_ROWS = (  # title, key, factor, unit
    ("images/s", "images_per_s", 1, ""),
    ("step", "s_per_step", 1e3, "ms"),
    ("peak memory", "peak_gib", 1, "GiB"),
    ("compiled program's memory", "compiled_gib", 1, "GiB"),
    ("trace and lower", "trace_s", 1, "s"),
    ("compile", "compile_s", 1, "s"),
    ("arithmetic", "flops_per_s", 1e-9, "GFLOP/s"),
    ("  share of a matrix product's rate", "share_of_matmul_rate", 100, "%"),
    ("memory traffic, without caches", "bytes_accessed_per_s", 1e-9, "GB/s"),
    ("  share of a copy's rate", "share_of_copy_rate", 100, "%"),
)


def table(found: Mapping[str, Any]) -> str:
    """A result of `network` or `images` as lines of text."""
    others = {name: found[name] for name in ("opencv", "peer") if name in found}
    sides = {"jaxcovid": found, **others}
    head = "{mode}, batch {batch}, {size}x{size}".format(**found)
    if "dtype" in found:
        head += ", {dtype}, on {devices} x {device}".format(**found)
    else:
        head += ", {images} images, {workers} workers".format(**found)
    names = [side.get("framework", name) for name, side in sides.items()]
    lines = [head, f"{'':36}" + "".join(f"{name:>20}" for name in names)]
    for title, key, factor, unit in _ROWS:
        values = [side.get(key) for side in sides.values()]
        if any(value is not None for value in values):
            cells = ["" if v is None else f"{v * factor:.3g} {unit}".strip() for v in values]
            lines.append(f"{title:36}" + "".join(f"{cell:>20}" for cell in cells))
    lines += [
        "{median:.2f} times the images/s of {name} ({low:.2f} to {high:.2f})".format(
            name=side.get("framework", name), **side["ratio"]
        )
        for name, side in others.items()
    ]
    return "\n".join(lines)


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.make_parser("benchmark", __doc__)
    parser.add_argument("mode", choices=("train", "infer", "input", "start", "growth"))
    parser.add_argument("--batch", type=int, default=16, help="images of a global batch")
    parser.add_argument("--size", type=int, default=256, help="side of an image, px")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--devices", type=int, help="default: all; on a CPU, virtual ones")
    parser.add_argument("--peer", choices=PEERS, help="what to time beside it")
    parser.add_argument(
        "--peer_python", metavar="PYTHON", default=sys.executable, help="the one that has PyTorch"
    )
    parser.add_argument("--source", metavar="DIR", help="input: a folder of images")
    parser.add_argument("--workers", type=int, default=0, help="input: processes; 0 uses threads")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each (default 9)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn (default 5)")
    parser.add_argument("--data_dir", metavar="DIR", help=f"start: {cli.DATA_DIR_HELP}")
    parser.add_argument("--plot", metavar="FILE", help="growth: gets a figure")
    parser.add_argument("--json", metavar="FILE", help="gets every number")
    arguments = parser.parse_args(argv[1:])
    if arguments.peer == "linen" and arguments.mode not in ("train", "growth"):
        parser.error("the peer linen only trains")
    if arguments.mode == "input" and not arguments.source:
        parser.error("input needs --source=DIR, a folder of images")
    return arguments


def main(arguments: argparse.Namespace) -> None:
    """Measures what the command line names and prints a table."""
    with user_errors():
        if arguments.mode == "start":
            found = start(arguments)
            print("\n".join(f"{k:20}{v:>8.1f}" for k, v in found.items() if k.endswith("_s")))
        elif arguments.mode == "growth":
            found = growth(arguments)
            if arguments.plot:
                growth_figures.draw(found, Path(arguments.plot))
        else:
            found = images(arguments) if arguments.mode == "input" else network(arguments)
            print(table(found))
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    cli.use_huge_pages()
    package = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    app.run(main, flags_parser=_parse_flags)
