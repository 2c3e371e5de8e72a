"""What the kernels for a GPU have in common: sizes of tiles, and how they are launched."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.experimental.xla_metadata import set_xla_metadata

from jaxcovid.models.fused.execution import TILE_CHANNELS


def launch(
    kernel: Any,
    *arguments: jax.Array,
    grid: tuple[int, ...],
    in_specs: list[pl.BlockSpec],
    out_specs: list[pl.BlockSpec],
    out_shape: list[jax.ShapeDtypeStruct],
    traffic: tuple[int, int],
    warps: int = 4,
    stages: int = 3,
    **options: Any,
) -> Any:
    """Runs a Pallas kernel, written for Triton.

    Args:
      kernel: of refs of the arguments and results.
      *arguments: arrays.
      grid: of programs.
      in_specs: what a program sees of each argument.
      out_specs: likewise of each result.
      out_shape: of each result.
      traffic: bytes that it reads and writes, for `benchmark compile`.
      warps: of a program.
      stages: of the pipeline between memory and arithmetic.
      **options: those of `pallas_call`.
    """
    call = pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=out_shape,
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=stages),
        **options,
    )
    read, written = traffic
    with set_xla_metadata(read_bytes=read, written_bytes=written):
        return call(*arguments)


def whole(*shape: int) -> pl.BlockSpec:
    """An array that every program sees as a whole."""
    return pl.BlockSpec(shape, lambda *_: (0,) * len(shape))


def in_tiles(*channels: int) -> jax.Array:
    """Numbers that divide by `TILE_CHANNELS`, divided by it, as an argument of a kernel.

    The layers of a block then share the kernel, which is compiled once; and it knows that they
    divide.
    """
    return jnp.array([c // TILE_CHANNELS for c in channels], jnp.int32)


def bytes_of(*arrays: Any) -> int:
    """Bytes of all arrays, or of their shapes."""
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(arrays))
