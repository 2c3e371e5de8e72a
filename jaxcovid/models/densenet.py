"""DenseNet-121 (Huang et al., arXiv:1608.06993), the backbone of both networks, in plain Flax.

This file is the definition: it says what is computed, with Flax's own layers and gradients by
autodiff. `fused.densenet` computes the same function from the same variables with less memory and
time; a test compares the two.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcovid.models.layers import AxisName, Maps, he_normal, show_map, three_channels


def _conv(features: int, size: int, *, stride: int = 1, dtype: Any, name: str) -> nn.Conv:
    """Square convolution without bias, padded by size // 2 on each side."""
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=he_normal,
        name=name,
    )


# PyTorch's epsilon, and its momentum 0.1. The variance is that of the deviations, because
# E[x^2] - E[x]^2 loses the digits of a variance that is small beside the squared mean.
_BatchNorm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5, use_fast_variance=False)


class DenseLayer(nn.Module):
    """BN, ReLU, 1x1 to 4 growth_rate, BN, ReLU, 3x3 to growth_rate; concatenated with its input.

    Shapes: [b, h, w, c] -> [b, h, w, c + growth_rate].
    """

    growth_rate: int
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm = partial(_BatchNorm, not train, dtype=self.dtype, axis_name=self.axis_name)
        y = nn.relu(norm(name="norm1")(x))
        y = _conv(4 * self.growth_rate, 1, dtype=self.dtype, name="conv1")(y)
        y = nn.relu(norm(name="norm2")(y))
        y = _conv(self.growth_rate, 3, dtype=self.dtype, name="conv2")(y)
        return jnp.concatenate([x, y], axis=-1)


class DenseBlock(nn.Module):
    """`depth` dense layers, each of which reads all the feature maps before it.

    Shapes: [b, h, w, c] -> [b, h, w, c + depth * growth_rate].
    """

    depth: int
    growth_rate: int
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i in range(1, self.depth + 1):
            layer = DenseLayer(self.growth_rate, self.dtype, self.axis_name, name=f"layer{i}")
            x = layer(x, train=train)
        return x


class Transition(nn.Module):
    """BN, ReLU, 1x1 to half the channels, 2x2 average at stride 2.

    Shapes: [b, h, w, c] -> [b, h // 2, w // 2, c // 2].

    Attributes:
      explained: Grad-CAM reads the map after the ReLU; it is kept where a caller asks for it.
    """

    dtype: Any = jnp.float32
    axis_name: AxisName = None
    explained: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm = _BatchNorm(not train, dtype=self.dtype, axis_name=self.axis_name, name="norm")
        x = nn.relu(norm(x))
        if self.explained:
            x = show_map(self, x)
        x = _conv(x.shape[-1] // 2, 1, dtype=self.dtype, name="conv")(x)
        return nn.avg_pool(x, (2, 2), strides=(2, 2))


class DenseNet(nn.Module):
    """Maps of DenseNet at four sizes, see `backbones`: after each dense block.

    With the defaults it is DenseNet-121: 256, 512, 1024 and 1024 channels, 6,953,856 parameters.
    The last map is the one after a final BN + ReLU. One channel stands for three equal ones.

    Attributes:
      growth_rate: channels that each layer adds.
      depths: layers of each block.
      dtype: dtype of activations and products; parameters and moments are float32.
      axis_name: mesh axis over which batch normalisation is synchronised, inside `shard_map`; None
        normalises the rows of each device by themselves.
    """

    growth_rate: int = 32
    depths: tuple[int, ...] = (6, 12, 24, 16)
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Maps:
        shared = {"dtype": self.dtype, "axis_name": self.axis_name}
        norm = partial(_BatchNorm, not train, **shared)
        image = three_channels(image)
        x = _conv(2 * self.growth_rate, 7, stride=2, dtype=self.dtype, name="stem_conv")(image)
        x = nn.relu(norm(name="stem_norm")(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        maps = []
        for i, depth in enumerate(self.depths, start=1):
            x = DenseBlock(depth, self.growth_rate, **shared, name=f"block{i}")(x, train=train)
            if i < len(self.depths):
                maps.append(x)
                last = i == len(self.depths) - 1
                x = Transition(**shared, explained=last, name=f"transition{i}")(x, train=train)
        return (*maps, nn.relu(norm(name="final_norm")(x)))
