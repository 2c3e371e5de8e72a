"""What torchvision, timm, torchxrayvision and jfhealthcare share: the names of one DenseNet."""

import re
from collections.abc import Callable, Mapping

import numpy as np

from jaxcovid.weights.plan import Entry
from jaxcovid.weights.sources.densenet import DenseNetShape, Layer, constant, layers, unchanged

COUNTERS = "counters of batches, of no use in inference"
# (in our collection, our name, PyTorch's name) of each array of a batch normalisation.
NORM = (
    ("params", "scale", "weight"),
    ("params", "bias", "bias"),
    ("batch_stats", "mean", "running_mean"),
    ("batch_stats", "var", "running_var"),
)
_PARALLEL = "module."  # in front of all names, by torch.nn.DataParallel
FEATURES = "features."
# Until torchvision 0.3, modules had names such as `norm.1`.
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])(?=\.)")


def current_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays by the names that the current versions of the libraries give them."""
    if all(name.startswith(_PARALLEL) for name in arrays):
        arrays = {name.removeprefix(_PARALLEL): array for name, array in arrays.items()}
    return {_OLD_NAME.sub(r"\1\2", name): array for name, array in arrays.items()}


def from_oihw(kernel: np.ndarray) -> np.ndarray:
    """A kernel [out, in, h, w] as [h, w, in, out]."""
    return kernel.transpose(2, 3, 1, 0)


def oihw(kernel: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The shape [h, w, in, out] as PyTorch has it, [out, in, h, w]."""
    return kernel[3], kernel[2], kernel[0], kernel[1]


def norm_entries(ours: str, theirs: str, channels: int) -> list[Entry]:
    """A batch normalisation.

    Args:
      ours: path of the module, such as `backbone/stem_norm`.
      theirs: name of the module, such as `features.norm0`.
      channels: that it normalises.
    """
    return [
        Entry(f"{collection}/{ours}/{name}", {f"{theirs}.{theirs_name}": (channels,)}, unchanged)
        for collection, name, theirs_name in NORM
    ]


def identity_norm(ours: str, channels: int) -> list[Entry]:
    """A batch normalisation of ours that changes nothing in inference, as our epsilon is 1e-5."""
    values = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "var": 1 - 1e-5}
    return [
        Entry(f"{collection}/{ours}/{name}", {}, constant(values[name], channels))
        for collection, name, _ in NORM
    ]


def module_name(path: str) -> str:
    """PyTorch's name of one of our layers, behind `features.`."""
    fixed = {"stem_conv": "conv0", "stem_norm": "norm0", "final_norm": "norm5"}
    if path in fixed:
        return fixed[path]
    path = path.replace("block", "denseblock").replace("/layer", "/denselayer")
    return path.replace("/", ".")


def _layer_entries(layer: Layer, prefix: str) -> list[Entry]:
    ours, theirs = f"backbone/{layer.path}", prefix + FEATURES + module_name(layer.path)
    if layer.kernel is None:
        return norm_entries(ours, theirs, layer.channels)
    return [Entry(f"params/{ours}/kernel", {f"{theirs}.weight": oihw(layer.kernel)}, from_oihw)]


def backbone_entries(
    shape: DenseNetShape,
    *,
    prefix: str = "",
    stem_channels: int = 3,
    stem_change: Callable[[np.ndarray], np.ndarray] = from_oihw,
) -> list[Entry]:
    """The backbone.

    Args:
      shape: of the DenseNet.
      prefix: in front of `features.`.
      stem_channels: of the images.
      stem_change: makes our kernel [7, 7, 3, out] of theirs [out, stem_channels, 7, 7].
    """
    entries = [entry for layer in layers(shape) for entry in _layer_entries(layer, prefix)]
    ours, theirs, _ = entries[0]
    ((name, (out, _, height, width)),) = theirs.items()
    stem = Entry(ours, {name: (out, stem_channels, height, width)}, stem_change)
    return [stem, *entries[1:]]


def skipped_counters(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The arrays of every file that are left out, and why."""
    return {name: COUNTERS for name in arrays if name.endswith(".num_batches_tracked")}


def skipped_classifier(
    arrays: Mapping[str, np.ndarray], name: str = "classifier"
) -> dict[str, str]:
    """A classifier of a backbone that is left out, and why."""
    kernel = arrays.get(f"{name}.weight")
    classes = f"{kernel.shape[0]:,} classes" if kernel is not None and kernel.ndim else "classes"
    reason = f"classifier of {classes} that are not ours"
    return {key: reason for key in (f"{name}.weight", f"{name}.bias") if key in arrays}
