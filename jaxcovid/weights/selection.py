"""Which modules of a network begin with given weights.

What is asked for is loaded as a whole, parameters and running moments, or refused. A table says
what is loaded and what is left as it was initialised.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from flax import traverse_util
from tabulate import tabulate

from jaxcovid.weights.initial import InitialWeights
from jaxcovid.weights.plan import shortened

WHAT = ("backbone", "attention", "everything")
_ASKED = {"backbone": ("backbone",), "attention": ("backbone", "pyramid_attention")}
# Fully connected layers: they belong together, and to the outputs that they were trained for.
_HEAD = ("classifier", "anomaly", "reduction", "fusion")
_DECODER = "decoder"  # which not every network has


@dataclass(frozen=True)
class Module:
    """What becomes of a module of the network.

    Attributes:
      name: such as `backbone`.
      parameters: their number.
      left: why it is left as initialised; empty if it is loaded.
    """

    name: str
    parameters: int
    left: str


def choose_modules(
    weights: InitialWeights,
    variables: Mapping[str, Any],
    *,
    what: str,
    backbone: str,
    outputs: tuple[str, ...],
) -> list[Module]:
    """Decides which modules of a network are loaded.

    Args:
      weights: to begin with.
      variables: `params` and `batch_stats` of the network, or their shapes.
      what: `backbone`, `attention` (with the backbone) or `everything`; the latter leaves the fully
        connected layers out if the network has others, or outputs of other names, and the decoder
        if one of the two has none.
      backbone: name of the network's.
      outputs: names of the network's.

    Raises:
      ValueError: what is asked for is not there as a whole; names what is missing or does not fit.
    """
    if weights.backbone != backbone:
        raise ValueError(
            f"init.weights: {weights.folder} holds a {weights.backbone}, and model.backbone is "
            f"{backbone}; use --config.model.backbone={weights.backbone}, or other weights"
        )
    wanted = traverse_util.flatten_dict(dict(variables), sep="/")
    names = dict.fromkeys(_module(name) for name in wanted)
    left = dict.fromkeys(names, f"init.what is {what}")
    if what == "everything":
        reasons = dict.fromkeys(_HEAD, _why_not_head(weights, wanted, outputs))
        theirs = {_module(name) for name in weights.arrays}
        if not names.keys() & theirs & {_DECODER}:
            reasons[_DECODER] = "there is none in the weights"
        asked = [name for name in names if not reasons.get(name)]
        asked += theirs - {*names, *_HEAD, _DECODER}
        left |= {name: reasons[name] for name in names if name in reasons}
    else:
        asked = list(_ASKED[what])
    left |= dict.fromkeys(asked, "")
    if problems := _problems(weights.arrays, wanted, asked):
        raise ValueError(
            f"init.weights: {weights.folder} does not fit what init.what={what} asks for: "
            + "; ".join(problems)
        )
    return [Module(name, _parameters(wanted, name), left[name]) for name in names]


def _module(name: str) -> str:
    return name.split("/")[1]


def _parameters(wanted: Mapping[str, Any], module: str) -> int:
    return sum(x.size for name, x in wanted.items() if name.startswith(f"params/{module}/"))


def _problems(
    theirs: Mapping[str, Any], wanted: Mapping[str, Any], modules: Sequence[str]
) -> list[str]:
    """Why modules of a network cannot be loaded as a whole; empty if they can."""
    asked = {name for name in wanted if _module(name) in modules}
    given = {name for name in theirs if _module(name) in modules}
    misfits = [
        f"{name} is {list(theirs[name].shape)} there and {list(wanted[name].shape)} here"
        for name in sorted(asked & given)
        if theirs[name].shape != wanted[name].shape
    ]
    return [
        f"{problem} ({len(items)}): {shortened(items)}"
        for problem, items in (
            ("missing there", sorted(asked - given)),
            ("not in this network", sorted(given - asked)),
            ("of other shapes", misfits),
        )
        if items
    ]


def _why_not_head(
    weights: InitialWeights, wanted: Mapping[str, Any], outputs: tuple[str, ...]
) -> str:
    """Why the fully connected layers are left as initialised; empty if they are loaded."""
    if weights.outputs != outputs:
        return f"its outputs are {', '.join(weights.outputs) or 'not known'}"
    return "; ".join(_problems(weights.arrays, wanted, _HEAD))


def replace_modules(
    variables: Mapping[str, Any], weights: InitialWeights, modules: Sequence[Module]
) -> dict[str, Any]:
    """Variables of a network, on the devices, with those of the loaded modules in their places."""
    loaded = {module.name for module in modules if not module.left}
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    for name, old in flat.items():
        if _module(name) in loaded:
            flat[name] = jax.device_put(weights.arrays[name], old.sharding)
    return traverse_util.unflatten_dict(flat, sep="/")


def table(modules: Sequence[Module]) -> str:
    """What is loaded and what is left as initialised, in parameters."""
    rows = [
        (
            module.name,
            f"{module.parameters:,}" if not module.left else "",
            f"{module.parameters:,}" if module.left else "",
            module.left,
        )
        for module in modules
    ]
    return tabulate(
        rows,
        headers=("module", "loaded", "initialised", "because"),
        colalign=("left", "right", "right", "left"),
        disable_numparse=True,
    )
