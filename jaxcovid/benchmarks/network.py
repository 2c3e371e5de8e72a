"""The train step and the forward pass of Deep-CT-Net as a contestant; see `rounds`.

    python -m jaxcovid.benchmarks.network train --batch=16

With --linen the same network as it is usually written in Flax.
Runs with jax, flax, optax and numpy alone.
"""

import argparse
import dataclasses
import json
import statistics
import time
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcovid.benchmarks import linen_reference, rounds
from jaxcovid.models import chunks
from jaxcovid.models.deep_ct_net import DTYPES, DeepCTNet
from jaxcovid.runtime import sharding
from jaxcovid.training.optimizer import make_optimizer, make_schedule
from jaxcovid.training.state import jit_init_state
from jaxcovid.training.step import jit_forward, jit_train_step


@dataclasses.dataclass
class Program:
    """A compiled function and what it runs on.

    Attributes:
      lower: () -> the function, lowered for its arguments.
      run: the compiled function's arguments -> those of the next call, and its result.
      arguments: of the next call.
    """

    lower: Any
    run: Any
    arguments: Any


def _random_batch(mesh: jax.sharding.Mesh, *, batch: int, size: int) -> dict[str, jax.Array]:
    random = np.random.default_rng(0)
    images = random.normal(size=(batch, size, size, 1)).astype(np.float32)
    target = random.integers(0, 2, (batch, 1)).astype(np.float32)
    return sharding.place_batch({"image": images, "target": target}, mesh)


def train_program(mesh: jax.sharding.Mesh, *, batch: int, size: int, dtype: str) -> Program:
    """The train step of `configs/default.py`, on random images."""
    model = DeepCTNet(dtype=dtype)
    optimizer = make_optimizer(
        make_schedule(learning_rate=1e-5, schedule="constant", updates=1),
        weight_decay=0.0,
        head_rate_factor=1.0,
        accumulate_steps=1,
    )
    images = _random_batch(mesh, batch=batch, size=size)
    state = jit_init_state(mesh, model=model, optimizer=optimizer, image_size=size, seed=0)()

    def lower() -> Any:
        step = jit_train_step(
            mesh,
            model=model,
            optimizer=optimizer,
            weights=np.ones((2, 1), np.float32),
            batch_norm="global",
        )
        return step.lower(state, images)

    def run(compiled: Any, state: Any) -> tuple[Any, Any]:
        return compiled(state, images)

    return Program(lower, run, state)


def infer_program(mesh: jax.sharding.Mesh, *, batch: int, size: int, dtype: str) -> Program:
    """The forward pass that evaluation and prediction use, on random images."""
    model = DeepCTNet(dtype=dtype)
    image = _random_batch(mesh, batch=batch, size=size)["image"]
    variables = jax.jit(model.init, out_shardings=sharding.replicated_sharding(mesh))(
        jax.random.key(0), image[:1]
    )

    def lower() -> Any:
        forward = jit_forward(mesh, model=model)
        return forward.lower(variables, image)

    def run(compiled: Any, variables: Any) -> tuple[Any, Any]:
        return variables, compiled(variables, image)

    return Program(lower, run, variables)


def linen_program(mesh: jax.sharding.Mesh, *, batch: int, size: int, dtype: str) -> Program:
    """The train step of `linen_reference`, on the images of `train_program`."""
    model = linen_reference.DeepCTNet(dtype=dtype)
    optimizer = optax.adam(1e-5)
    images = _random_batch(mesh, batch=batch, size=size)
    variables = jax.jit(model.init, out_shardings=sharding.replicated_sharding(mesh))(
        jax.random.key(0), images["image"][:1]
    )
    state = variables, optimizer.init(variables["params"])

    def lower() -> Any:
        step = partial(linen_reference.train_step, model=model, optimizer=optimizer)
        return jax.jit(step, donate_argnums=(0, 1)).lower(*state, images)

    def run(compiled: Any, state: Any) -> tuple[Any, Any]:
        *state, loss = compiled(*state, images)
        return state, loss

    return Program(lower, run, state)


def work(program: Program) -> dict[str, float]:
    """Floating-point operations and bytes accessed of a call, by XLA's cost analysis.

    Of the program that takes the batch as a whole: XLA counts the body of a loop once.
    """
    with mock.patch.object(chunks, "CHUNK_BYTES", 2**62):
        costs = program.lower().compile().cost_analysis()
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


def main() -> None:
    """Warms up and serves rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("train", "infer"))
    parser.add_argument("--devices", type=int, help="default: all")
    parser.add_argument("--batch", type=int, default=16, help="images of a global batch")
    parser.add_argument("--size", type=int, default=256, help="side of an image, px")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of activations")
    parser.add_argument("--linen", action="store_true", help="train: the network in plain Flax")
    parser.add_argument("--compile_only", action="store_true", help="print the facts and leave")
    arguments = parser.parse_args()
    if arguments.devices:
        jax.config.update("jax_num_cpu_devices", arguments.devices)
    mesh = sharding.make_mesh(arguments.devices)
    make = {"train": train_program, "infer": infer_program}[arguments.mode]
    if arguments.linen:
        make = linen_program
    program = make(mesh, batch=arguments.batch, size=arguments.size, dtype=arguments.dtype)
    facts: dict[str, Any] = {
        "framework": f"{'linen' if arguments.linen else 'jax'} {jax.__version__}",
        "device": jax.devices()[0].device_kind,
        "devices": mesh.size,
        "mode": arguments.mode,
        "batch": arguments.batch,
        "images_per_step": arguments.batch,
        "size": arguments.size,
        "dtype": arguments.dtype,
        **machine_rates(arguments.dtype),
    }
    start = time.perf_counter()
    lowered = program.lower()
    facts["trace_s"] = time.perf_counter() - start
    start = time.perf_counter()
    compiled = lowered.compile()
    facts["compile_s"] = time.perf_counter() - start
    memory = compiled.memory_analysis()
    facts["compiled_gib"] = (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**30
    if arguments.compile_only:
        print(json.dumps(facts | work(program)))
        return

    def run(steps: int) -> None:
        for _ in range(steps):
            program.arguments, result = program.run(compiled, program.arguments)
            jax.block_until_ready(result)

    start = time.perf_counter()
    run(2)
    facts["warmup_s"] = time.perf_counter() - start
    rounds.forget_peak_memory()

    def finish() -> dict[str, Any]:
        on_device = jax.devices()[0].memory_stats()
        gib = on_device["peak_bytes_in_use"] / 2**30 if on_device else rounds.peak_memory_gib()
        return {"peak_gib": gib, **work(program)}

    rounds.serve(facts, run, finish)


if __name__ == "__main__":
    main()
