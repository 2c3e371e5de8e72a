"""Keras' DenseNets: `.keras`, `.weights.h5`, and `.h5` of whole models and of published weights.

Keras 3 numbers layers of a class in the order of the network; older files have their names, with
`conv1/conv` for `conv1_conv` in the published ones.
"""

import re
from collections.abc import Mapping

import numpy as np

from jaxcovid.weights.converted import Origin
from jaxcovid.weights.files.weight_file import Content
from jaxcovid.weights.plan import Entry, Plan
from jaxcovid.weights.sources.densenet import NETWORKS, DenseNetShape, Layer, layers, unchanged
from jaxcovid.weights.sources.torchvision import IMAGENET, NOTE

ORIGIN = Origin("keras", "https://github.com/keras-team/keras", "Apache-2.0")
_EPSILON, _OURS = 1.001e-5, 1e-5
_TREATMENT = "1e-8, the difference to ours, is added to every running variance: exact in inference"
# (our collection, our name, Keras' name), in the order in which Keras numbers them.
_NORM = (
    ("params", "scale", "gamma"),
    ("params", "bias", "beta"),
    ("batch_stats", "mean", "moving_mean"),
    ("batch_stats", "var", "moving_variance"),
)
_VARIABLES = {"conv2d": ("kernel",), "batch_normalization": tuple(name for *_, name in _NORM)}
_NUMBERED = re.compile(r"(?:.*/)?layers/(conv2d|batch_normalization)(?:_(\d+))?/vars/(\d+)$")
_NAMED = re.compile(
    r"(?:[^/]+/)*?(conv1[/_](?:conv|bn)|conv\d_block\d+_\d_(?:conv|bn)|pool\d_(?:conv|bn)|bn)"
    r"/(?:.*/)?(kernel|gamma|beta|moving_mean|moving_variance)(?::0)?$"
)
_SKIPPED = re.compile(
    r"(?P<optimizer>(?:optimizer|optimizer_weights)/)"
    r"|(?:model_weights/)?(?:.*/)?(?:predictions|fc\d+|dense(?:_\d+)?)/"
)


def _name(path: str) -> str:
    """Keras' name of one of our layers."""
    fixed = {"stem_conv": "conv1_conv", "stem_norm": "conv1_bn", "final_norm": "bn"}
    if path in fixed:
        return fixed[path]
    if match := re.fullmatch(r"transition(\d)/(norm|conv)", path):
        return f"pool{int(match[1]) + 1}_{'bn' if match[2] == 'norm' else 'conv'}"
    block, layer, part = path.split("/")
    parts = {"norm1": "0_bn", "conv1": "1_conv", "norm2": "1_bn", "conv2": "2_conv"}
    return f"conv{int(block[5:]) + 1}_block{layer[5:]}_{parts[part]}"


def _skipped(path: str) -> str | None:
    match = _SKIPPED.match(path)
    if match is None:
        return None
    return "state of the optimizer" if match["optimizer"] else "classifier of classes not ours"


def _current_name(path: str, numbered: Mapping[str, list[str]]) -> str:
    """The LAYER/VARIABLE of an array, as in `conv1_conv/kernel`; its path if it is of no layer.

    Args:
      path: of the array in the file.
      numbered: names of the layers of each class, in the order of the network.
    """
    if match := _NAMED.match(path):
        return f"{match[1].replace('/', '_')}/{match[2]}"
    if match := _NUMBERED.match(path):
        names, variables = numbered[match[1]], _VARIABLES[match[1]]
        number, variable = int(match[2] or 0), int(match[3])
        if number < len(names) and variable < len(variables):
            return f"{names[number]}/{variables[variable]}"
    return path


def _with_names(arrays: Mapping[str, np.ndarray], shape: DenseNetShape) -> dict[str, np.ndarray]:
    """The arrays by LAYER/VARIABLE; those of no layer, and second ones of a name, by their path."""
    numbered: dict[str, list[str]] = {"conv2d": [], "batch_normalization": []}
    for layer in layers(shape):
        numbered["conv2d" if layer.kernel else "batch_normalization"].append(_name(layer.path))
    renamed: dict[str, np.ndarray] = {}
    for path, array in arrays.items():
        name = path if _skipped(path) else _current_name(path, numbered)
        renamed[path if name in renamed else name] = array
    return renamed


def _shift_variance(variance: np.ndarray) -> np.ndarray:
    return variance.astype(np.float64) + (_EPSILON - _OURS)


def _entries(layer: Layer) -> list[Entry]:
    ours, theirs = f"backbone/{layer.path}", _name(layer.path)
    if layer.kernel is not None:
        return [Entry(f"params/{ours}/kernel", {f"{theirs}/kernel": layer.kernel}, unchanged)]
    return [
        Entry(
            f"{collection}/{ours}/{name}",
            {f"{theirs}/{theirs_name}": (layer.channels,)},
            _shift_variance if name == "var" else unchanged,
        )
        for collection, name, theirs_name in _NORM
    ]


def plans(content: Content) -> list[Plan]:
    """What the file is if it comes from Keras."""
    made = []
    for backbone, shape in NETWORKS.items():
        arrays = _with_names(content.arrays, shape)
        skipped = {name: _skipped(name) for name in arrays}
        plan = Plan(
            origin=ORIGIN,
            input=IMAGENET,
            backbone=backbone,
            arrays=arrays,
            entries=tuple(entry for layer in layers(shape) for entry in _entries(layer)),
            skipped={name: reason for name, reason in skipped.items() if reason},
            epsilon=_EPSILON,
            epsilon_treatment=_TREATMENT,
            notes=(NOTE,),
        )
        made.append(plan)
    return made
