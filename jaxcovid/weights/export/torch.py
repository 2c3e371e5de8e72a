"""PyTorch state dicts in safetensors: torchvision's names for a DenseNet, ours for the rest.

The numbers are those of the checkpoint, in PyTorch's layout. Names of ours are the paths of Flax
with PyTorch's last words: `pyramid_attention.gap.conv.weight`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors.numpy import save

from jaxcovid.runtime.files import write_atomically
from jaxcovid.weights.export.manifest import Manifest
from jaxcovid.weights.export.program import Program
from jaxcovid.weights.sources.torch_densenet import FEATURES, NORM, module_name

BACKBONE, REST = "backbone.safetensors", "rest.safetensors"
_LEAVES = {"kernel": "weight"} | {ours: theirs for _, ours, theirs in NORM}


def write(program: Program, manifest: Manifest, folder: Path) -> None:
    """Writes `BACKBONE`, of a DenseNet alone, and `REST`."""
    metadata = {"format": "pt", "use": manifest.use, "licence": manifest.licence}
    tensors = state_dict(program.variables)
    backbone = {name: x for name, x in tensors.items() if name.startswith(FEATURES)}
    rest = {name: x for name, x in tensors.items() if name not in backbone}
    if backbone:
        write_atomically(folder / BACKBONE, save(backbone, metadata))
    write_atomically(folder / REST, save(rest, metadata))


def state_dict(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The state dict of a network.

    Args:
      variables: `params`, `batch_stats`, and of a network with frozen parts `frozen`.

    Returns:
      Arrays by PyTorch's names; those of a frozen part begin with `parts.NAME.`.
    """
    tensors: dict[str, np.ndarray] = {}
    densenet = "final_norm" in variables.get("params", {}).get("backbone", {})
    for collection in ("params", "batch_stats"):
        for path, array in traverse_util.flatten_dict(variables.get(collection, {})).items():
            tensors[torch_name(path, densenet=densenet)] = _turn(np.asarray(array))
    for name in [name for name in tensors if name.endswith("running_mean")]:
        counter = name.removesuffix("running_mean") + "num_batches_tracked"
        tensors[counter] = np.zeros((), np.int64)  # PyTorch's layers have one, and read it nowhere
    for part, inner in variables.get("frozen", {}).items():
        tensors |= {f"parts.{part}.{name}": x for name, x in state_dict(inner).items()}
    return tensors


def torch_name(path: tuple[str, ...], *, densenet: bool) -> str:
    """PyTorch's name of a variable by its path, as in ("norm", "scale").

    Args:
      path: in its collection.
      densenet: the backbone is a DenseNet, which has torchvision's names.
    """
    module, theirs = path[:-1], _LEAVES[path[-1]]
    if densenet and module[0] == "backbone":
        return f"{FEATURES}{module_name('/'.join(module[1:]))}.{theirs}"
    return ".".join([*module, theirs])


def _turn(array: np.ndarray) -> np.ndarray:
    """A kernel in PyTorch's layout: [k, k, in, out] as [out, in, k, k], [in, out] as [out, in]."""
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
    return np.ascontiguousarray(array.transpose(order) if order else array)
