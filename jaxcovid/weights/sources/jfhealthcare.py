"""jfhealthcare/Chexpert: DenseNet, feature pyramid attention and a head for each disease.

A file has the arrays of every kind of attention and pooling; which of them its network runs, only
the `cfg.json` of its training says. Without it the backbone alone is converted.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcovid.weights.converted import Input, Origin
from jaxcovid.weights.files.weight_file import Content
from jaxcovid.weights.plan import Entry, Plan
from jaxcovid.weights.sources.densenet import NETWORKS, feature_channels
from jaxcovid.weights.sources.torch_densenet import (
    backbone_entries,
    current_names,
    from_oihw,
    identity_norm,
    norm_entries,
    skipped_classifier,
    skipped_counters,
)

ORIGIN = Origin("jfhealthcare", "https://github.com/jfhealthcare/Chexpert", "Apache-2.0")
DISEASES = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
_MEAN, _STD = 128.0, 64.0  # gray values, of its example configuration
_CONFIG = "cfg.json"
_EPSILON = 1e-5
_ATTENTION = "attention_map."
_PYRAMID = "attention_map.pyramid_attention."
# Our branch of the attention: its name there, size of the kernel, one channel in, one channel out.
_BRANCHES = {
    "gap": ("gap_branch.1", 1, False, False),
    "mid": ("mid_branch", 1, False, False),
    "down1": ("downsample1", 7, False, True),
    "down2": ("downsample2", 5, True, True),
    "down3": ("downsample3", 3, True, True),
    "lateral1": ("scale1", 7, True, True),
    "lateral2": ("scale2", 5, True, True),
    "lateral3": ("scale3", 3, True, True),
}
_NO_CONFIG = f"only {_CONFIG} of the training says if and how it is run; put it beside the file"
_REPEATED = (
    "that code runs the attention again for each head, so the head of output k reads the map after "
    "k passes; this network makes one pass, and only its first output has the same logit"
)


def _attention_entries(channels: int) -> list[Entry]:
    """The feature pyramid attention."""
    entries = []
    for ours, (theirs, size, one_in, one_out) in _BRANCHES.items():
        shape = (1 if one_out else channels, 1 if one_in else channels, size, size)
        path, name = f"pyramid_attention/{ours}", f"{_PYRAMID}{theirs}.conv"
        entries += [
            Entry(f"params/{path}/conv/kernel", {f"{name}.0.weight": shape}, from_oihw),
            Entry(f"params/{path}/conv/bias", {f"{name}.0.bias": shape[:1]}, np.asarray),
            *norm_entries(f"{path}/norm", f"{name}.1", shape[0]),
        ]
    return entries


def _plain_kernel(*kernels: np.ndarray) -> np.ndarray:
    """Our kernel [c, heads] of each head's [1, c, 1, 1]."""
    return np.stack([kernel[0, :, 0, 0] for kernel in kernels], axis=-1)


def _plain_bias(*biases: np.ndarray) -> np.ndarray:
    """Our bias [heads] of each head's [1]."""
    return np.concatenate(biases)


def _folded_kernel(*arrays: np.ndarray) -> np.ndarray:
    """Our kernel [c, heads] with the normalisation of the pooled features in it.

    Args:
      *arrays: of each head in turn: kernel [1, c, 1, 1], scale [c] and running variance [c].
    """
    heads = zip(arrays[::3], arrays[1::3], arrays[2::3], strict=True)
    return np.stack([kernel[0, :, 0, 0] * _factor(*norm) for kernel, *norm in heads], axis=-1)


def _folded_bias(*arrays: np.ndarray) -> np.ndarray:
    """Our bias [heads] with the normalisation of the pooled features in it.

    Args:
      *arrays: of each head in turn: kernel [1, c, 1, 1], scale, variance, mean and shift, all [c],
        and bias [1].
    """
    biases = []
    for start in range(0, len(arrays), 6):
        kernel, scale, var, mean, shift, bias = arrays[start : start + 6]
        centre = shift - mean * _factor(scale, var)
        biases.append(kernel[0, :, 0, 0].astype(np.float64) @ centre + bias[0])
    return np.array(biases)


def _factor(scale: np.ndarray, var: np.ndarray) -> np.ndarray:
    """What a batch normalisation multiplies by, float64."""
    return scale / np.sqrt(var.astype(np.float64) + _EPSILON)


def _head_entries(heads: int, channels: int, *, normalised: bool) -> list[Entry]:
    """The classifier.

    Args:
      heads: number of diseases.
      channels: of the features.
      normalised: a batch normalisation stands between pooling and each head (`fc_bn`).
    """
    of_kernel: dict[str, tuple[int, ...]] = {}
    of_bias: dict[str, tuple[int, ...]] = {}
    for head in range(heads):
        kernel = f"fc_{head}.weight"
        of_kernel[kernel] = (1, channels, 1, 1)
        if normalised:
            scale, var, mean, shift = (
                f"bn_{head}.{name}" for name in ("weight", "running_var", "running_mean", "bias")
            )
            of_kernel |= {scale: (channels,), var: (channels,)}
            of_bias[kernel] = of_kernel[kernel]
            of_bias |= dict.fromkeys((scale, var, mean, shift), (channels,))
        of_bias[f"fc_{head}.bias"] = (1,)
    kernel_change = _folded_kernel if normalised else _plain_kernel
    bias_change = _folded_bias if normalised else _plain_bias
    return [
        Entry("params/classifier/kernel", of_kernel, kernel_change),
        Entry("params/classifier/bias", of_bias, bias_change),
        *identity_norm("norm", channels),
    ]


def _text(config: Mapping[str, Any], key: str) -> str:
    """An option that should be text, for a message."""
    value = config.get(key)
    return ascii(value[:20]) if isinstance(value, str) else "that is no text"


def _obstacle(config: Mapping[str, Any], heads: int) -> str:
    """Why the heads of a configuration have no counterpart here; empty if they have one."""
    if config.get("attention_map") not in ("FPA", "None"):
        return f"the attention {_text(config, 'attention_map')} has no counterpart"
    if config.get("global_pool") != "AVG":
        return f"the pooling {_text(config, 'global_pool')} has no counterpart; AVG has"
    classes = config.get("num_classes")
    if not isinstance(classes, list) or any(number != 1 for number in classes):
        return "heads of other than one class have no counterpart"
    if len(classes) != heads:
        return f"the file has {heads} heads where {_CONFIG} has {len(classes)}"
    return ""


def _input(config: Mapping[str, Any]) -> Input:
    mean, std = config.get("pixel_mean", _MEAN), config.get("pixel_std", _STD)
    numbers = all(isinstance(value, int | float) and abs(value) < 1e6 for value in (mean, std))
    if not numbers or not std > 0:
        raise ValueError(f"{_CONFIG}: pixel_mean and pixel_std must be numbers, the second above 0")
    return Input(3, 0.0, 255.0, (mean,), (std,), preprocessing_mean=mean, preprocessing_std=std)


def _plan(backbone: str, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> Plan:
    channels = feature_channels(NETWORKS[backbone])
    heads = sum(name.startswith("fc_") and name.endswith(".weight") for name in arrays)
    entries = backbone_entries(NETWORKS[backbone], prefix="backbone.")
    attention, head, notes = None, None, []
    obstacle = _obstacle(config, heads) if config else _NO_CONFIG
    if config.get("attention_map") in ("FPA", "None"):
        attention = "compact" if config["attention_map"] == "FPA" else "none"
    if attention == "compact":
        entries += _attention_entries(channels)
    if not obstacle:
        head = "gap"
        entries += _head_entries(heads, channels, normalised=bool(config.get("fc_bn")))
        notes = [_REPEATED] if attention == "compact" and heads > 1 else []
    used = {name for entry in entries for name in entry.theirs}
    reasons = {
        "fc_": obstacle,
        "bn_": obstacle or "normalisation of the pooled features, which is off (fc_bn)",
        _ATTENTION: "attention that it holds and does not run" if config else _NO_CONFIG,
    }
    counters = skipped_counters(arrays)
    skipped = {
        name: reason
        for prefix, reason in reasons.items()
        for name in arrays
        if reason and name.startswith(prefix) and name not in used and name not in counters
    }
    skipped |= counters | skipped_classifier(arrays, "backbone.classifier")
    names = DISEASES if heads == len(DISEASES) else tuple(f"head {k}" for k in range(heads))
    return Plan(
        origin=ORIGIN,
        input=_input(config),
        backbone=backbone,
        arrays=arrays,
        entries=tuple(entries),
        skipped=skipped,
        attention=attention,
        head=head,
        outputs=names if head else (),
        notes=tuple(notes),
    )


def plans(content: Content) -> list[Plan]:
    """What the file is if it comes from jfhealthcare/Chexpert.

    Raises:
      ValueError: its `cfg.json` says that it has another normalisation than BatchNorm, whose arrays
        have the same names.
    """
    arrays = current_names(content.arrays)
    if not any(name.startswith("backbone.features.") for name in arrays):
        return []
    config = content.settings.get(_CONFIG, {})
    if config and config.get("norm_type") != "BatchNorm":
        raise ValueError(
            f"{_CONFIG} has norm_type {_text(config, 'norm_type')}; only BatchNorm is converted"
        )
    return [_plan(backbone, arrays, config) for backbone in NETWORKS]
