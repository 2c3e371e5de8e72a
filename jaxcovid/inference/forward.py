"""The forward pass over a mesh of devices."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxcovid.runtime.compiler import compiler_options
from jaxcovid.runtime.sharding import (
    ROW_AXES,
    batch_sharding,
    platform_of,
    replicated_sharding,
)


def forward(variables: Mapping[str, Any], image: jax.Array, *, model: nn.Module) -> jax.Array:
    """Probabilities float32 [b, outputs] of images float32 [b, h, w, 1], inference mode."""
    return model.probabilities(model.apply(variables, image, train=False))


def jit_forward(mesh: Mesh, *, model: nn.Module) -> Any:
    """`forward` compiled over `mesh`, rows of the batch sharded in and out."""
    replicated, rows = replicated_sharding(mesh), batch_sharding(mesh)
    sharded = jax.shard_map(
        partial(forward, model=model.on(platform_of(mesh))),
        mesh=mesh,
        in_specs=(P(), P(ROW_AXES)),
        out_specs=P(ROW_AXES),
        check_vma=False,
    )
    return jax.jit(
        sharded,
        in_shardings=(replicated, rows),
        out_shardings=rows,
        compiler_options=compiler_options(platform_of(mesh)),
    )
