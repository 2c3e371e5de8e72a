"""The probabilities of a whole split or of some images, and what else a forward pass gives."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxcovid.data.datasets import Record
from jaxcovid.data.pipeline import Loading, eval_batches
from jaxcovid.runtime.sharding import place_batch, process_place


def predict_source(
    variables: Mapping[str, Any],
    source: Sequence[Record],
    *,
    forward: Any,
    loading: Loading,
    mesh: Mesh,
) -> Any:
    """What `forward` gives of all records, arrays [n, ...] in the order of `source`.

    Args:
      variables: of the network, replicated over the mesh.
      source: the records.
      forward: see `forward.jit_forward`; with `loading.masks` it takes the masks too, with
        `loading.views` two views of each image.
      loading: how records become batches, the last of which is padded; the share of this process
        is that of its devices.
      mesh: the devices.
    """
    index, count = process_place(mesh)
    loading = dataclasses.replace(loading, process_index=index, process_count=count)
    names = ("image", "masks") if loading.masks else ("image",)
    sharded = []
    for batch in eval_batches(source, loading):
        placed = place_batch({name: batch[name] for name in names}, mesh)
        sharded.append(forward(variables, *(placed[name] for name in names)))
    # Rows come in the order of the mesh, which is that of the source over batches and processes;
    # padding is at the end.
    gathered = [multihost_utils.process_allgather(rows, tiled=True) for rows in sharded]
    return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(source)], *gathered)


def predict_inputs(
    inputs: Sequence[np.ndarray],
    function: Callable[[jax.Array], jax.Array],
    *,
    batch_size: int,
    mesh: Mesh,
) -> np.ndarray:
    """What a function of batches gives of all inputs, [n, ...] in their order.

    Args:
      inputs: float32 [size, size, 1] each.
      function: of float32 [batch_size, size, size, 1], sharded by rows.
      batch_size: of every call; the last batch is padded.
      mesh: the devices.

    Raises:
      ValueError: no inputs.
    """
    results = []
    for start in range(0, len(inputs), batch_size):
        rows = list(inputs[start : start + batch_size])
        padded = np.stack(rows + [rows[-1]] * (batch_size - len(rows)))
        batch = place_batch({"image": padded}, mesh)["image"]
        results.append(np.asarray(function(batch))[: len(rows)])
    if not results:
        raise ValueError("no images given")
    return np.concatenate(results)
