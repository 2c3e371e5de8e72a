"""What older versions wrote into `run.json`, in the form of this one.

Format 3 has the option names of this version; format 2, that of the first release, had others.
Options that were added since get the value that changes nothing.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxcovid.data.augmentation import Augmentation

_ADDED: dict[str, dict[str, Any]] = {  # options that older workdirs lack, and what they did without
    "model": {"backbone": "densenet121"},
    "init": {"weights": "", "what": "backbone", "freeze_epochs": 0.0, "layer_decay": 1.0},
    "segmentation": {"weight": 1.0},
    "preprocessing": {"equalize": True, "blur": True},
    "mixture": {"weights": [], "balance": "none", "unlabelled": [], "copies": "near"},
    "distillation": {"teachers": []},
    "contrastive": {"width": 1024},
    "augmentation": {**dataclasses.asdict(Augmentation()), "scale": [1.0, 1.0]},
    "lungs": {"workdir": "", "use": "crop"},
    "volume": {"slices": 0},
}
_RENAMED = (  # options of format 2 and their names today
    ("", "outputs", "task"),
    ("", "control", "ablation"),
    ("model", "growth", "growth_rate"),
    ("optimizer", "head_rate_factor", "head_lr_multiplier"),
)
_TASKS = {"three_way": "one_vs_rest", "two_way": "multiclass", "findings": "multilabel"}


def migrated(facts: Mapping[str, Any], version: int) -> Mapping[str, Any]:
    """Translates the content of a `run.json` of format 2 or 3, in place, into that of today.

    Raises:
      KeyError, TypeError, AttributeError: it is damaged.
    """
    config = facts["config"]
    if version == 2:
        _rename(config)
    for group, added in _ADDED.items():
        config[group] = added | config.get(group, {})
    config.setdefault("objective", "screening")
    return facts


def _rename(config: dict[str, Any]) -> None:
    for group, old, new in _RENAMED:
        options = config.get(group, {}) if group else config
        if old in options:
            options[new] = options.pop(old)
    config["task"] = _TASKS.get(config["task"], config["task"])
