"""Builds the network that a configuration describes."""

from collections.abc import Mapping
from typing import Any

from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.models.deep_cxr_net import DeepCXRNet, FrozenPart
from jaxcovid.models.segmentation_net import SegmentationNet

NETWORKS = ("deep_ct_net", "deep_cxr_net")
MASKED = ("segmentation", "joint")  # objectives that segment, with a decoder
OBJECTIVES = ("screening", *MASKED)


def make_model(
    config: Mapping[str, Any],
    *,
    outputs: int,
    exclusive: bool,
    parts: Mapping[str, DeepCTNet] | None = None,
) -> DeepCTNet:
    """The network of a configuration.

    Args:
      config: a whole configuration, see `configs/default.py`; read are `network`, `objective`,
        `model` and, for deep_cxr_net, `fusion`.
      outputs: number of logits.
      exclusive: the outputs are one softmax; else independent sigmoids.
      parts: deep_cxr_net: its frozen networks by name.

    Raises:
      ValueError: an option does not exist or is out of its range.
    """
    options = {**config["model"], "depths": tuple(config["model"]["depths"])}
    options["backbone_name"] = options.pop("backbone")
    options |= {"outputs": outputs, "exclusive": exclusive}
    objective = config["objective"]
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}; use one of {', '.join(OBJECTIVES)}")
    if objective in MASKED:
        if config["network"] != "deep_ct_net":
            raise ValueError(f"objective={objective} needs --config.network=deep_ct_net")
        return SegmentationNet(joint=objective == "joint", **options)
    if config["network"] == "deep_ct_net":
        return DeepCTNet(**options)
    if config["network"] == "deep_cxr_net":
        frozen = tuple(FrozenPart(name, part) for name, part in sorted((parts or {}).items()))
        return DeepCXRNet(parts=frozen, **config["fusion"], **options)
    raise ValueError(f"network is {config['network']!r}; use one of {', '.join(NETWORKS)}")
