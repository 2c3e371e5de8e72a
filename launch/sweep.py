"""Prints the commands of a config's `sweep()`, one a line, or the one that submits them to SLURM.

    python launch/sweep.py --config=configs/covid_ct.py:scratch --workdir=runs/seeds | bash
    python launch/sweep.py --config=configs/covid_ct.py:scratch --workdir=runs/seeds \
        --slurm="--time=8:00:00 --gpus-per-node=1" | bash

Each element of `sweep()` is a dict of overrides such as `{"optimizer.learning_rate": 1e-4}`, and
gets its own workdir, named by it, under `--workdir`. Further options, as `--data_dir=DIR` or
`--config.epochs=5`, go to all commands.
"""

import argparse
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def elements(config: str, workdir: Path) -> Iterator[list[str]]:
    """The options of each element of the sweep in `config`, FILE.py or FILE.py:variant.

    Raises:
      ValueError: there is no such file, it has no `sweep`, or two elements would share a workdir.
    """
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from jaxcovid.runtime import config_files

    file = config_files.resolve(config).partition(":")[0]
    spec = importlib.util.spec_from_file_location("config", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "sweep"):
        raise ValueError(f"{config} has no sweep()")
    names = set()
    for overrides in module.sweep():
        name = name_of(overrides)
        if name in names:
            raise ValueError(f"sweep() of {config} yields two elements named {name}")
        names.add(name)
        options = [f"--config.{key}={value}" for key, value in overrides.items()]
        yield [*options, f"--workdir={workdir / name}"]


def name_of(overrides: Mapping[str, Any]) -> str:
    """A folder's name: commas, which separate workdirs elsewhere, and slashes are replaced."""
    name = "_".join(f"{key}={value}" for key, value in overrides.items())
    return re.sub(r"[^\w.=+-]+", "-", name) or "default"


def main() -> None:
    """Parses the command line and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="FILE.py or FILE.py:variant")
    parser.add_argument("--workdir", required=True, type=Path, help="folder of the workdirs")
    parser.add_argument("--slurm", nargs="?", const="", metavar="OPTIONS", help="one array job")
    arguments, rest = parser.parse_known_args()
    common = [f"--config={arguments.config}", *rest]
    try:
        sweep = list(elements(arguments.config, arguments.workdir))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if arguments.slurm is None:
        for options in sweep:
            print(shlex.join(["python", "-m", "jaxcovid.train", *common, *options]))
    else:
        array = ["sbatch", f"--array=0-{len(sweep) - 1}", *shlex.split(arguments.slurm)]
        each = [shlex.join(options) for options in sweep]
        print(shlex.join([*array, "launch/slurm.sbatch", *common, "--", *each]))


if __name__ == "__main__":
    main()
