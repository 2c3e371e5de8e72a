"""Learning rates that fall from the head to the stem (Howard & Ruder, arXiv:1801.06146).

What was trained before is general near the image and special near the head, so it should move less
the further it is from the head.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import optax


def _height(path: Sequence[str]) -> tuple[int, float]:
    """Where a layer is between the stem of the backbone and the head; higher is later.

    The layers of a backbone are the stem, what has a number, and what follows the last number.
    """
    module, layer = path[0], path[1]
    if module != "backbone":
        return (1, 0) if module == "pyramid_attention" else (2, 0)
    if layer.startswith("stem"):
        return 0, 0
    number = re.search(r"\d+$", layer)
    return 0, int(number[0]) if number else math.inf


def layer_rates(params: Any, layer_decay: float) -> Any:
    """The factor of the learning rate for each parameter: layer_decay^n, n layers below the head.

    Args:
      params: of a network, or their shapes.
      layer_decay: in (0, 1].
    """

    def height(path: tuple[jax.tree_util.DictKey, ...]) -> tuple[int, float]:
        return _height([key.key for key in path])

    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    order = sorted({height(path) for path in paths}, reverse=True)
    return jax.tree_util.tree_map_with_path(
        lambda path, _: layer_decay ** order.index(height(path)), params
    )


def scale_by_layer(layer_decay: float) -> optax.GradientTransformation:
    """Multiplies the updates of each parameter by its factor, see `layer_rates`.

    Raises:
      ValueError: `layer_decay` is out of its range.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"init.layer_decay is {layer_decay}; it must be above 0 and at most 1")
    return optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda update, rate: rate * update, updates, layer_rates(updates, layer_decay)
        )
    )
