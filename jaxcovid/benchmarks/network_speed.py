"""Times the train step and the forward pass, alone or in turns with a peer."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from jaxcovid.benchmarks import rounds, tables
from jaxcovid.benchmarks.compiled import targets

PEERS = ("torch", "torch_compile", "linen")
_CONTESTANTS = "jaxcovid.benchmarks.contestants"


@dataclasses.dataclass(frozen=True)
class Workload:
    """What every contestant computes.

    Attributes:
      mode: `train` or `infer`.
      batch: images of a global batch.
      size: side of an image, px.
      dtype: of activations, `float32` or `bfloat16`.
      devices: on a CPU, virtual ones; None is all.
      batch_norm: of the train step; the peers know `global` alone.
      backbone: see `models.backbones`; the peer `linen` knows `densenet121` alone.
      objective: see `models.build`; the peers know `screening` alone.
    """

    mode: str
    batch: int = 16
    size: int = 256
    dtype: str = "float32"
    devices: int | None = None
    batch_norm: str = "global"
    backbone: str = "densenet121"
    objective: str = "screening"


@dataclasses.dataclass(frozen=True)
class Peer:
    """What is timed beside this project.

    Attributes:
      name: one of `PEERS`.
      python: the interpreter that has PyTorch.
    """

    name: str
    python: str = sys.executable


def time_network(workload: Workload, peer: Peer | None, turns: rounds.Turns) -> dict[str, Any]:
    """Times the train step or the forward pass.

    Returns:
      The facts of the contestant (see `contestants.serving`), its speed, shares of the rates of the
      machine; with a peer also `peer` and `ratio`.

    Raises:
      RuntimeError: a contestant failed.
    """
    result = rounds.time_contestants(_commands(workload, peer), turns)
    for amount, rate, share in (
        ("flops", "matmul_flops_per_s", "share_of_matmul_rate"),
        ("bytes_accessed", "copy_bytes_per_s", "share_of_copy_rate"),
    ):
        result[f"{amount}_per_s"] = result[amount] / result["s_per_step"]
        result[share] = result[f"{amount}_per_s"] / result[rate]
    return result


TIMED = (*((n, 256) for n in (1, 2, 4, 8, 16, 32)), *((8, n) for n in (128, 192, 384, 512)))
COMPILED = ((64, 256), (128, 256), (256, 256), (8, 768), (8, 1024))  # may not fit the machine


def time_growth(
    workload: Workload,
    peer: Peer | None,
    turns: rounds.Turns,
    *,
    timed: Sequence[tuple[int, int]] = TIMED,
    compiled: Sequence[tuple[int, int]] = COMPILED,
) -> dict[str, Any]:
    """Times the train step over batches and sizes; of larger ones only compiles it.

    Args:
      workload: its batch and size are ignored.
      peer: see `time_network`.
      turns: likewise.
      timed: pairs of batch and size.
      compiled: likewise.

    Returns:
      `rows`: for each batch and size what `time_network` returns, of larger ones the facts alone.

    Raises:
      RuntimeError: a contestant failed.
    """
    rows = []
    for batch, size in (*timed, *compiled):
        shape = dataclasses.replace(workload, mode="train", batch=batch, size=size)
        if (batch, size) in timed:
            # PyTorch refuses to normalise the one number at the top of the pyramid.
            cell_peer = None if batch == 1 else peer
            rows.append(rounds.time_contestants(_commands(shape, cell_peer), turns))
        else:
            command = [*_commands(shape, None)["jaxcovid"], "--compile_only"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout))
        print(tables.growth_line(rows[-1]), flush=True)
    return {"mode": "growth", "rows": rows}


def compile_network(
    workload: Workload, peer: Peer | None, target: targets.Target
) -> dict[str, Any]:
    """Compiles the train step for a target that need not be there.

    Args:
      workload: its mode and devices are ignored.
      peer: None or `linen`.
      target: that it is compiled for.

    Returns:
      What `compiled.report.compile_for` returns; with a peer also `peer`, the same of it.

    Raises:
      RuntimeError: a contestant failed.
    """
    workload = dataclasses.replace(workload, mode="train", devices=None)
    results = {}
    for name, command in _commands(workload, peer).items():
        process = subprocess.run(
            [*command, f"--target={target}"],
            stdout=subprocess.PIPE,
            text=True,
            env=targets.environment(os.environ),
        )
        if process.returncode:
            raise RuntimeError(f"{' '.join(process.args)} failed; see its message above")
        results[name] = json.loads(process.stdout.splitlines()[-1])
    ours = results.pop("jaxcovid")
    return ours | results


def _commands(workload: Workload, peer: Peer | None) -> dict[str, list[str]]:
    """The command of each contestant."""
    shared = [f"--{name}={getattr(workload, name)}" for name in ("batch", "size", "dtype")]
    on_jax = [*shared, *([f"--devices={workload.devices}"] if workload.devices else [])]

    def contestant(python: str, module: str) -> list[str]:
        return [python, "-m", f"{_CONTESTANTS}.{module}", workload.mode]

    own = contestant(sys.executable, "jax_network")
    names = ("batch_norm", "backbone", "objective")
    options = [f"--{name}={getattr(workload, name)}" for name in names]
    commands = {"jaxcovid": [*own, *on_jax, *options]}
    if peer and peer.name == "linen":
        commands["peer"] = [*contestant(sys.executable, "linen_network"), *on_jax]
    elif peer:
        backbone = f"--backbone={workload.backbone}"
        commands["peer"] = [*contestant(peer.python, "torch_network"), *shared, backbone]
        if peer.name == "torch_compile":
            commands["peer"].append("--compile")
    return commands
