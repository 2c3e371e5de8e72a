"""Grad-CAM heatmaps (Selvaraju et al., ICCV 2017; the paper's Figs. 6 and 9)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

LAYERS = ("attention", "backbone")


def grad_cam(
    weights: Mapping[str, Any],
    image: jax.Array,
    *,
    model: nn.Module,
    output: int = 0,
    layer: str = "attention",
) -> jax.Array:
    """Where a logit comes from: positive part of the gradient-weighted sum of a layer's maps.

    Args:
      weights: the network's variables.
      image: float32 [b, h, w, 1], preprocessed.
      model: a network with `features`, `attend` and `classify`.
      output: index of the logit.
      layer: `attention` (the map after attention, before its BN) or `backbone`.

    Returns:
      float32 [b, h / 32, w / 32], each image's maximum 1; all 0 where nothing speaks for the logit.

    Raises:
      ValueError: an unknown layer.
    """
    if layer not in LAYERS:
        raise ValueError(f"layer is {layer!r}; use one of {', '.join(LAYERS)}")

    def attend(maps: jax.Array) -> jax.Array:
        return model.apply(weights, maps, method="attend")

    def logit(maps: jax.Array) -> jax.Array:
        attended = maps if layer == "attention" else attend(maps)
        return model.apply(weights, attended, image, method="classify")[:, output].sum()

    maps = model.apply(weights, image, method="features")
    if layer == "attention":
        maps = attend(maps)
    importance = jax.grad(logit)(maps).mean((1, 2), keepdims=True)
    cam = nn.relu((importance * maps).astype(jnp.float32).sum(-1))
    peak = cam.max((1, 2), keepdims=True)
    return cam / jnp.where(peak > 0, peak, 1.0)
