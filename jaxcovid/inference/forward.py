"""The forward pass over a mesh of devices, and the probabilities of a whole split."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxcovid.data import pipeline
from jaxcovid.data.ablations import Ablation
from jaxcovid.data.datasets import Record
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.runtime.compiler import compiler_options
from jaxcovid.runtime.sharding import BATCH_AXIS, batch_sharding, place_batch, replicated_sharding


def forward(variables: Mapping[str, Any], image: jax.Array, *, model: nn.Module) -> jax.Array:
    """Probabilities float32 [b, outputs] of images float32 [b, h, w, 1], inference mode."""
    return model.probabilities(model.apply(variables, image, train=False))


def jit_forward(mesh: Mesh, *, model: nn.Module) -> Any:
    """`forward` compiled over `mesh`, rows of the batch sharded in and out."""
    replicated, rows = replicated_sharding(mesh), batch_sharding(mesh)
    sharded = jax.shard_map(
        partial(forward, model=model),
        mesh=mesh,
        in_specs=(P(), P(BATCH_AXIS)),
        out_specs=P(BATCH_AXIS),
        check_vma=False,
    )
    return jax.jit(
        sharded,
        in_shardings=(replicated, rows),
        out_shardings=rows,
        compiler_options=compiler_options(),
    )


def predict_source(
    variables: Mapping[str, Any],
    source: Sequence[Record],
    *,
    forward: Any,
    preprocessing: Preprocessing,
    batch_size: int,
    mesh: Mesh,
    ablation: Ablation | None = None,
    workers: int = 0,
) -> np.ndarray:
    """Probabilities float32 [n, outputs] of all records, in the order of `source`.

    Args:
      variables: of the network, replicated over the mesh.
      source: the records.
      forward: see `jit_forward`.
      preprocessing: the paper's steps.
      batch_size: images of a global batch; the last one is padded.
      mesh: the devices.
      ablation: see `pipeline.Loading`.
      workers: see `pipeline.Loading`.
    """
    loading = pipeline.Loading(
        preprocessing=preprocessing,
        batch_size=batch_size,
        ablation=ablation,
        workers=workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    sharded = [
        forward(variables, place_batch({"image": batch["image"]}, mesh)["image"])
        for batch in pipeline.eval_batches(source, loading)
    ]
    # `make_mesh` has the devices in the order of the processes, so that rows come in the order of
    # the source over batches and processes; padding is at the end.
    gathered = [multihost_utils.process_allgather(rows, tiled=True) for rows in sharded]
    return np.concatenate(gathered)[: len(source)]
