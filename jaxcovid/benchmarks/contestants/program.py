"""A compiled function as a contestant: what it costs, and rounds of it; see `rounds`."""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcovid.benchmarks import rounds
from jaxcovid.benchmarks.compiled import targets
from jaxcovid.benchmarks.compiled.report import compile_for
from jaxcovid.models.deep_ct_net import DTYPES, DeepCTNet
from jaxcovid.runtime import sharding


@dataclasses.dataclass
class Program:
    """A function of a network and what it runs on.

    Attributes:
      model: the network.
      lower: a network -> the function, lowered for the shapes of its arguments.
      start: makes the arguments of the first call.
      run: the compiled function and its arguments -> the arguments of the next call, and a result.
    """

    model: DeepCTNet
    lower: Callable[[DeepCTNet], jax.stages.Lowered]
    start: Callable[[], Any]
    run: Callable[[Any, Any], tuple[Any, Any]]


def random_batch(mesh: jax.sharding.Mesh, *, batch: int, size: int) -> dict[str, jax.Array]:
    """Random images [batch, size, size, 1] and targets [batch, 1], placed on the mesh."""
    random = np.random.default_rng(0)
    images = random.normal(size=(batch, size, size, 1)).astype(np.float32)
    target = random.integers(0, 2, (batch, 1)).astype(np.float32)
    return sharding.place_batch({"image": images, "target": target}, mesh)


def batch_shapes(
    mesh: jax.sharding.Mesh, *, batch: int, size: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of `random_batch`."""
    rows = sharding.batch_sharding(mesh)
    shapes = {"image": (batch, size, size, 1), "target": (batch, 1)}
    return {
        name: jax.ShapeDtypeStruct(shape, np.float32, sharding=rows)
        for name, shape in shapes.items()
    }


def replicated_shapes(mesh: jax.sharding.Mesh, make: Callable[[], Any]) -> Any:
    """The shapes of what a function makes, replicated over the mesh."""
    replicated = sharding.replicated_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), jax.eval_shape(make)
    )


def jit_initial_variables(mesh: jax.sharding.Mesh, model: DeepCTNet, size: int) -> Any:
    """() -> the variables of a network for images [b, size, size, 1], replicated over the mesh."""

    def initialise() -> Any:
        return model.init(jax.random.key(0), jnp.zeros((1, size, size, 1)))

    return jax.jit(initialise, out_shardings=sharding.replicated_sharding(mesh))


def lower_for(mesh: jax.sharding.Mesh, function: Any, *shapes: Any) -> jax.stages.Lowered:
    """A jitted function lowered for the devices of a mesh, which need not exist."""
    platform = sharding.platform_of(mesh)
    platforms = ({"gpu": "cuda"}.get(platform, platform),)
    return function.trace(*shapes).lower(lowering_platforms=platforms)


def parse_flags(description: str, modes: tuple[str, ...]) -> argparse.Namespace:
    """The flags of a contestant that runs a network on JAX; sets the number of CPU devices."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("mode", choices=modes)
    parser.add_argument("--devices", type=int, help="default: all")
    parser.add_argument("--batch", type=int, default=16, help="images of a global batch")
    parser.add_argument("--size", type=int, default=256, help="side of an image, px")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of activations")
    parser.add_argument("--batch_norm", default="global", help="see `training.step.train_step`")
    parser.add_argument("--compile_only", action="store_true", help="print the facts and leave")
    parser.add_argument("--program", type=Path, help="gets the compiled program, XLA's text")
    parser.add_argument("--target", type=targets.parse_target, help="compile for it")
    arguments = parser.parse_args()
    if arguments.devices and not arguments.target:
        jax.config.update("jax_num_cpu_devices", arguments.devices)
    return arguments


def serve(make: Callable[..., Program], arguments: argparse.Namespace, *, framework: str) -> None:
    """Compiles a program, warms it up and serves rounds.

    Args:
      make: (mesh, batch=, size=, dtype=) -> the program.
      arguments: see `parse_flags`.
      framework: the name of the contestant.
    """
    shape = {"batch": arguments.batch, "size": arguments.size, "dtype": arguments.dtype}
    if arguments.target:
        try:
            facts = compile_for(make, arguments.target, program_file=arguments.program, **shape)
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
        **machine_rates(arguments.dtype),
    }
    compiled, costs = _compile(program)
    facts |= costs
    if arguments.program:
        arguments.program.write_text(compiled.as_text())
    if arguments.compile_only:
        print(json.dumps(facts | work(program)))
        return

    values = program.start()

    def run(steps: int) -> None:
        nonlocal values
        for _ in range(steps):
            values, result = program.run(compiled, values)
            jax.block_until_ready(result)

    def finish() -> dict[str, Any]:
        on_device = jax.devices()[0].memory_stats()
        gib = on_device["peak_bytes_in_use"] / 2**30 if on_device else rounds.peak_memory_gib()
        return {"peak_gib": gib, **work(program)}

    start = time.perf_counter()
    run(2)
    facts["warmup_s"] = time.perf_counter() - start
    rounds.forget_peak_memory()
    rounds.serve(facts, run, finish)


def _compile(program: Program) -> tuple[Any, dict[str, float]]:
    """The compiled program, and seconds and memory that it takes."""
    start = time.perf_counter()
    lowered = program.lower(program.model)
    traced = time.perf_counter()
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    return compiled, {
        "trace_s": traced - start,
        "compile_s": time.perf_counter() - traced,
        "compiled_gib": (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**30,
    }


def work(program: Program) -> dict[str, float]:
    """Floating-point operations and bytes accessed of a call, by XLA's cost analysis.

    Of the program that takes the batch as a whole: XLA counts the body of a loop once.
    """
    whole = program.model.clone(chunk_bytes=sys.maxsize)
    costs = program.lower(whole).compile().cost_analysis()
    return {"flops": costs["flops"], "bytes_accessed": costs["bytes accessed"]}


def machine_rates(dtype: str) -> dict[str, float]:
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
