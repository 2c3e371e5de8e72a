"""The layers of our DenseNets, in order, and what several sources share.

Huang et al., arXiv:1608.06993; see `models.densenet`, whose variables these are.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

_BOTTLENECK = 4  # channels of a layer's first convolution, in growth rates


class DenseNetShape(NamedTuple):
    """Growth rate and layers of each dense block."""

    growth_rate: int
    depths: tuple[int, ...]


# The ones that are converted, by the value of config.model.backbone.
NETWORKS = {
    "densenet121": DenseNetShape(32, (6, 12, 24, 16)),
    "densenet169": DenseNetShape(32, (6, 12, 32, 32)),
}


class Layer(NamedTuple):
    """A convolution or batch normalisation.

    Attributes:
      path: in the variables of the backbone, such as `block1/layer1/conv1`.
      kernel: shape [h, w, in, out]; None of a normalisation.
      channels: of its output.
    """

    path: str
    kernel: tuple[int, int, int, int] | None
    channels: int


def _norm(path: str, channels: int) -> Layer:
    return Layer(path, None, channels)


def _conv(path: str, size: int, channels: int, features: int) -> Layer:
    return Layer(path, (size, size, channels, features), features)


def layers(shape: DenseNetShape) -> Iterator[Layer]:
    """The layers from the image to the features."""
    growth_rate, depths = shape
    channels = 2 * growth_rate
    yield _conv("stem_conv", 7, 3, channels)
    yield _norm("stem_norm", channels)
    for block, depth in enumerate(depths, start=1):
        for number in range(1, depth + 1):
            layer = f"block{block}/layer{number}"
            yield _norm(f"{layer}/norm1", channels)
            yield _conv(f"{layer}/conv1", 1, channels, _BOTTLENECK * growth_rate)
            yield _norm(f"{layer}/norm2", _BOTTLENECK * growth_rate)
            yield _conv(f"{layer}/conv2", 3, _BOTTLENECK * growth_rate, growth_rate)
            channels += growth_rate
        if block < len(depths):
            yield _norm(f"transition{block}/norm", channels)
            yield _conv(f"transition{block}/conv", 1, channels, channels // 2)
            channels //= 2
    yield _norm("final_norm", channels)


def feature_channels(shape: DenseNetShape) -> int:
    """Channels of the features."""
    return list(layers(shape))[-1].channels


def unchanged(array: np.ndarray) -> np.ndarray:
    """An array whose layout is ours."""
    return array


def constant(value: float, channels: int) -> Any:
    """A change that makes a vector of equal values of no arrays."""
    return lambda: np.full(channels, value)
