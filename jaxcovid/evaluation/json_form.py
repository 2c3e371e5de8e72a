"""The one way from results to JSON: fields become keys, NaN becomes null with its reason.

A field's metadata can say more: `key`, another name in JSON; `inline`, its own keys join those of
its owner; `json` False, it does not appear.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxcovid.metrics.scores import RATIOS

# Why a number under this key is undefined.
_REASONS = {
    "explanations": "all heatmaps are empty",
    "dice": "both masks are empty",
    "hausdorff": "no slice has both masks",
    "volume_error": "the true masks are empty",
    "absolute_volume_error": "the true masks are empty",
    "lesion_sensitivity": "there is no lesion",
    "peripheral": "there is no lesion",
    "dorsal": "there is no lesion",
    "lower": "there is no lesion",
    "right": "no lung is seen on this side",
    "left": "no lung is seen on this side",
}


def content_of(value: Any) -> Any:
    """Dataclasses as dictionaries, sequences as lists; numbers and text as they are.

    A field whose default is None is left out where it is None.

    Raises:
      TypeError: a value that JSON does not know.
    """
    if dataclasses.is_dataclass(value):
        content: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            absent = item is None and field.default is None
            if absent or not field.metadata.get("json", True):
                continue
            if field.metadata.get("inline"):
                content |= content_of(item)
            else:
                content[field.metadata.get("key", field.name)] = content_of(item)
        return content
    if isinstance(value, Mapping):
        return {str(key): content_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [content_of(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{value!r} is a {type(value).__name__}, which JSON does not know")


def without_nan(content: Any) -> Any:
    """The content with None for NaN and infinity."""
    if isinstance(content, dict):
        return {key: without_nan(item) for key, item in content.items()}
    if isinstance(content, list):
        return [without_nan(item) for item in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def undefined(content: Mapping[str, Any]) -> dict[str, str]:
    """Why each number that is NaN is undefined, by its path ("operating_points/0.5/f/value")."""
    return {"/".join(keys): _reason(keys) for keys in _nan_paths(content, ())}


def _nan_paths(content: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(content, Mapping):
        for key, item in content.items():
            yield from _nan_paths(item, (*keys, key))
    elif isinstance(content, list):
        for index, item in enumerate(content):
            yield from _nan_paths(item, (*keys, str(index)))
    elif isinstance(content, float) and math.isnan(content):
        yield keys


def _reason(keys: tuple[str, ...]) -> str:
    """Why the number at a path is undefined."""
    if "averages" in keys or "class_averages" in keys:
        return f"the {keys[-1]} of one of the classes is undefined"
    if keys[-1] in ("low", "high"):
        return "the value is undefined, or the resamples of patients do not differ"
    if "classes" in keys:
        return "the class is absent, or never called"
    if "predictive_values" in keys:
        return "nothing is called so, or a class is absent"
    if named := [key for key in keys if key in _REASONS]:
        return _REASONS[named[-1]]
    if ratios := [key for key in keys if key in RATIOS]:
        return RATIOS[ratios[-1]].undefined
    return "a class is absent" if "auc_macro" in keys else "one class is absent"
