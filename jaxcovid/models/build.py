"""The network that a configuration describes."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.models.deep_cxr_net import DeepCXRNet, FrozenPart

NETWORKS = ("deep_ct_net", "deep_cxr_net")


def make_model(
    config: Mapping[str, Any],
    *,
    outputs: int,
    exclusive: bool,
    parts: Sequence[FrozenPart] = (),
) -> DeepCTNet:
    """The network of a configuration.

    Args:
      config: see `configs/default.py`; `network`, `model` and `fusion` are read.
      outputs: number of logits.
      exclusive: the outputs are one softmax; else independent sigmoids.
      parts: the frozen parts of `deep_cxr_net`.

    Raises:
      ValueError: an option that is not there or out of its range.
    """
    options = {**config["model"], "depths": tuple(config["model"]["depths"])}
    options |= {"outputs": outputs, "exclusive": exclusive}
    if config["network"] == "deep_ct_net":
        return DeepCTNet(**options)
    if config["network"] != "deep_cxr_net":
        raise ValueError(f"network is {config['network']!r}; use one of {', '.join(NETWORKS)}")
    return DeepCXRNet(parts=tuple(parts), **config["fusion"], **options)
