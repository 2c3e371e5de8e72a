"""Measures the speed of training, inference, input and start, beside PyTorch if asked to.

python -m jaxcovid.benchmark train --batch=16 --peer=torch
python -m jaxcovid.benchmark train --batch=16 --peer=linen
python -m jaxcovid.benchmark train --batch=16 --peer=torch --backbone=resnet50
python -m jaxcovid.benchmark infer --batch=16 --dtype=bfloat16 --json=infer.json
python -m jaxcovid.benchmark input --source=COVID-CT/Images-processed --workers=2 --peer=torch
python -m jaxcovid.benchmark start
python -m jaxcovid.benchmark compile --target=tpu:v5e:4x4 --peer=linen
python -m jaxcovid.benchmark growth --peer=torch --plot=growth.png

With a peer both run in turns, and the ratio is that of each turn: a machine's speed drifts. `linen`
is the same network with its backbone in plain Flax (`models.densenet`); `torch` has other backbones
from torchvision or timm. `input` times the pipeline with all five steps, with those left to the
device (`decoding`), then with decoded images in memory (`cached`), and a bare loop; for one core
type `taskset -c 0` before it. `start` types the train command on the prepared data set `phantom`,
with an empty and a filled compilation cache. `growth` times the train step over batches and sizes
of images. `compile` needs no accelerator: it compiles the train step for one and calculates from
the program what a step costs there at least.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app

from jaxcovid.benchmarks import growth_figures, input_speed, network_speed, start_time, tables
from jaxcovid.benchmarks.compiled.targets import Target, parse_target
from jaxcovid.benchmarks.rounds import Turns
from jaxcovid.models.backbones import BACKBONES
from jaxcovid.models.build import MASKED
from jaxcovid.runtime import cli
from jaxcovid.runtime.user_errors import user_errors

_MODES = ("train", "infer", "input", "start", "growth", "compile")


def _target(text: str) -> Target:
    """A target that argparse refuses with its own message."""
    try:
        return parse_target(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.make_parser("benchmark", __doc__)
    parser.add_argument("mode", choices=_MODES)
    parser.add_argument(
        "--batch", type=int, help="images of a global batch (default 16; compile: 64 a device)"
    )
    parser.add_argument("--size", type=int, default=256, help="side of an image, px")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of activations (default float32; compile: bfloat16)",
    )
    parser.add_argument(
        "--target",
        type=_target,
        help="compile: such as gpu:h100:8 or tpu:v5e:4x4; tpu:v5e:4x4:2 is two slices",
    )
    parser.add_argument(
        "--batch_norm",
        default="global",
        metavar="KIND",
        help="train, compile: global (default), groups:N or per_device",
    )
    parser.add_argument(
        "--backbone",
        choices=BACKBONES,
        default=BACKBONES[0],
        help="train, infer, growth, compile: default densenet121",
    )
    parser.add_argument(
        "--objective",
        choices=("screening", *MASKED),
        default="screening",
        help="train, infer, compile: screening (default), or with the decoder of lungs and lesion",
    )
    parser.add_argument("--devices", type=int, help="default: all; on a CPU, virtual ones")
    parser.add_argument("--peer", choices=network_speed.PEERS, help="what to time beside it")
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
    compiles = arguments.mode == "compile"
    if compiles and not arguments.target:
        parser.error("compile needs --target, such as --target=gpu:h100:8")
    if compiles and arguments.peer not in (None, "linen"):
        parser.error("compile knows the peer linen alone")
    if arguments.peer == "linen" and arguments.mode not in ("train", "growth", "compile"):
        parser.error("the peer linen only trains")
    if arguments.peer == "linen" and arguments.backbone != BACKBONES[0]:
        parser.error(f"the peer linen has the backbone {BACKBONES[0]} alone")
    if arguments.peer and arguments.backbone == "light_cnn":
        parser.error("light_cnn has no usual form in PyTorch to be compared with")
    if arguments.peer and arguments.objective != "screening":
        parser.error("the peers have no decoder")
    arguments.dtype = arguments.dtype or ("bfloat16" if compiles else "float32")
    arguments.batch = arguments.batch or (64 * arguments.target.size if compiles else 16)
    if arguments.mode == "input" and not arguments.source:
        parser.error("input needs --source=DIR, a folder of images")
    return arguments


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line names; prints it as a table."""
    shape = {"batch": arguments.batch, "size": arguments.size}
    turns = Turns(arguments.rounds, arguments.seconds)
    if arguments.mode == "start":
        result = start_time.time_start(
            **shape, dtype=arguments.dtype, repeats=turns.rounds, data_dir=arguments.data_dir
        )
        print(tables.start_table(result))
        return result
    if arguments.mode == "input":
        python = arguments.peer_python if arguments.peer else None
        result = input_speed.time_input(
            arguments.source, turns, **shape, workers=arguments.workers, torch_python=python
        )
        print(tables.speed_table(result))
        return result
    peer = None
    if arguments.peer:
        peer = network_speed.Peer(arguments.peer, arguments.peer_python)
    workload = network_speed.Workload(
        arguments.mode,
        **shape,
        dtype=arguments.dtype,
        devices=arguments.devices,
        batch_norm=arguments.batch_norm,
        backbone=arguments.backbone,
        objective=arguments.objective,
    )
    if arguments.mode == "compile":
        result = network_speed.compile_network(workload, peer, arguments.target)
        print(tables.compile_table(result))
        return result
    if arguments.mode == "growth":
        result = network_speed.time_growth(workload, peer, turns)
        if arguments.plot:
            growth_figures.draw(result, Path(arguments.plot))
        return result
    result = network_speed.time_network(workload, peer, turns)
    print(tables.speed_table(result))
    return result


def main(arguments: argparse.Namespace) -> None:
    """Measures what the command line names, prints a table and writes every number."""
    with user_errors():
        result = _measure(arguments)
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    cli.use_huge_pages()
    package = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    app.run(main, flags_parser=_parse_flags)
