"""A program as a contestant: what it costs, and rounds of it; see `rounds`."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxcovid.benchmarks import rounds
from jaxcovid.benchmarks.compiled import targets
from jaxcovid.benchmarks.compiled.report import compile_for
from jaxcovid.benchmarks.contestants.program import Program, compile_timed
from jaxcovid.models.backbones import BACKBONES
from jaxcovid.models.build import MASKED
from jaxcovid.models.deep_ct_net import DTYPES
from jaxcovid.runtime import sharding


def parse_flags(description: str, modes: tuple[str, ...]) -> argparse.Namespace:
    """The flags of a contestant that runs a network on JAX; sets the number of CPU devices."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("mode", choices=modes)
    parser.add_argument("--devices", type=int, help="default: all")
    parser.add_argument("--batch", type=int, default=16, help="images of a global batch")
    parser.add_argument("--size", type=int, default=256, help="side of an image, px")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of activations")
    parser.add_argument("--backbone", choices=BACKBONES, default=BACKBONES[0])
    parser.add_argument("--objective", choices=("screening", *MASKED), default="screening")
    parser.add_argument("--batch_norm", default="global", help="see `training.step.train_step`")
    parser.add_argument("--compile_only", action="store_true", help="print the facts and leave")
    parser.add_argument("--program", type=Path, help="gets the compiled program, XLA's text")
    parser.add_argument("--target", type=targets.parse_target, help="compile for it")
    arguments = parser.parse_args()
    if arguments.devices and not arguments.target:
        jax.config.update("jax_num_cpu_devices", arguments.devices)
    return arguments


def serve(
    make: Callable[..., Program],
    arguments: argparse.Namespace,
    *,
    framework: str,
    alone: Callable[..., Program] | None = None,
) -> None:
    """Compiles a program, warms it up and serves rounds.

    Args:
      make: (mesh, batch=, size=, dtype=) -> the program.
      arguments: see `parse_flags`.
      framework: the name of the contestant.
      alone: see `compile_for`.
    """
    shape = {"batch": arguments.batch, "size": arguments.size, "dtype": arguments.dtype}
    if arguments.target:
        try:
            facts = compile_for(
                make, arguments.target, alone=alone, program_file=arguments.program, **shape
            )
        except ValueError as error:
            sys.exit(f"error: {error}")
        print(json.dumps({"framework": f"{framework} {jax.__version__}", **facts}))
        return
    mesh = sharding.make_mesh(arguments.devices)
    program = make(mesh, **shape)
    facts: dict[str, Any] = {
        "framework": f"{framework} {jax.__version__}",
        "device": jax.devices()[0].device_kind,
        "devices": mesh.size,
        "mode": arguments.mode,
        **shape,
        "images_per_step": arguments.batch,
        **_machine_rates(arguments.dtype),
    }
    compiled, seconds = compile_timed(program)
    memory = compiled.memory_analysis()
    compiled_bytes = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    facts |= {**seconds, "compiled_gib": compiled_bytes / 2**30}
    if arguments.program:
        arguments.program.write_text(compiled.as_text())
    if arguments.compile_only:
        print(json.dumps(facts | _work(program)))
        return

    state, inputs = program.start()

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, result = program.run(compiled, state, inputs)
            jax.block_until_ready(result)

    def finish() -> dict[str, Any]:
        on_device = jax.devices()[0].memory_stats()
        gib = on_device["peak_bytes_in_use"] / 2**30 if on_device else rounds.peak_memory_gib()
        return {"peak_gib": gib, **_work(program)}

    start = time.perf_counter()
    run(2)
    facts["warmup_s"] = time.perf_counter() - start
    rounds.forget_peak_memory()
    rounds.serve(facts, run, finish)


def _work(program: Program) -> dict[str, float]:
    """Floating-point operations and bytes accessed of a call, by XLA's cost analysis."""
    costs = program.whole().compile().cost_analysis()
    return {"flops": costs["flops"], "bytes_accessed": costs["bytes accessed"]}


def _machine_rates(dtype: str) -> dict[str, float]:
    """What the device can do: FLOP/s of a matrix product, bytes/s of a copy, medians of 9.

    The product is of two 4,096 x 4,096 matrices, on a CPU 2,048; the copy reads and writes
    256 MiB.
    """
    n = 2048 if jax.default_backend() == "cpu" else 4096
    matrix = jnp.ones((n, n), dtype)
    array = jnp.ones((64, 2**20), jnp.float32)
    multiply, copy = jax.jit(jnp.dot), jax.jit(jnp.copy)

    def seconds(function: Any, *arguments: jax.Array) -> float:
        times = []
        for _ in range(10):
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])

    return {
        "matmul_flops_per_s": 2 * n**3 / seconds(multiply, matrix, matrix),
        "copy_bytes_per_s": 2 * array.nbytes / seconds(copy, array),
    }
