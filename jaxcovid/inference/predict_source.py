"""The probabilities of a whole split, and what else a forward pass gives."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxcovid.data import pipeline
from jaxcovid.data.ablations import Ablation
from jaxcovid.data.datasets import Record
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.runtime.sharding import place_batch, process_order


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
    masks: bool = False,
) -> Any:
    """What `forward` gives of all records, arrays [n, ...] in the order of `source`.

    Args:
      variables: of the network, replicated over the mesh.
      source: the records.
      forward: see `forward.jit_forward`.
      preprocessing: the paper's steps.
      batch_size: images of a global batch; the last one is padded.
      mesh: the devices.
      ablation: see `pipeline.Loading`.
      workers: see `pipeline.Loading`.
      masks: `forward` takes the masks of the records too.
    """
    processes = process_order(mesh)
    loading = pipeline.Loading(
        preprocessing=preprocessing,
        batch_size=batch_size,
        ablation=ablation,
        masks=masks,
        workers=workers,
        process_index=processes.index(jax.process_index()),
        process_count=len(processes),
    )
    names = ("image", "masks") if masks else ("image",)
    sharded = []
    for batch in pipeline.eval_batches(source, loading):
        placed = place_batch({name: batch[name] for name in names}, mesh)
        sharded.append(forward(variables, *(placed[name] for name in names)))
    # Rows come in the order of the mesh, which is that of the source over batches and processes;
    # padding is at the end.
    gathered = [multihost_utils.process_allgather(rows, tiled=True) for rows in sharded]
    return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(source)], *gathered)
