"""timm's DenseNets. Their names are torchvision's, so something else must say that it is timm."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from jaxcovid.weights.converted import Input, Origin
from jaxcovid.weights.files.weight_file import Content
from jaxcovid.weights.plan import Plan
from jaxcovid.weights.sources import torchvision

ORIGIN = Origin("timm", "https://github.com/huggingface/pytorch-image-models", "Apache-2.0")


def plans(content: Content) -> list[Plan]:
    """What the file is if it comes from timm.

    That is said by the class of a pickled module, or by the hub's `config.json` beside the file.
    """
    config = content.settings.get("config.json", {})
    architecture = config.get("architecture")
    named = isinstance(architecture, str) and architecture.startswith("densenet")
    if not named and not content.class_name.startswith("timm."):
        return []
    return [
        dataclasses.replace(plan, origin=ORIGIN, input=_input(config.get("pretrained_cfg")))
        for plan in torchvision.plans(content)
    ]


def _input(config: Any) -> Input:
    """The input that `config.json` says, or ImageNet's."""
    if not isinstance(config, Mapping):
        return torchvision.IMAGENET
    mean, std = config.get("mean"), config.get("std")
    if not (_are_numbers(mean) and _are_numbers(std)):
        return torchvision.IMAGENET
    return dataclasses.replace(torchvision.IMAGENET, mean=tuple(mean), std=tuple(std))


def _are_numbers(values: Any) -> TypeGuard[list[float]]:
    return isinstance(values, list) and all(
        isinstance(value, int | float) and math.isfinite(value) for value in values
    )
