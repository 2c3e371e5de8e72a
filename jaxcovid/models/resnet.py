"""ResNet-50 (He et al., arXiv:1512.03385) as a backbone, in the form of torchvision's weights.

In this form, version 1.5, the 3x3 convolution of a block halves the map, not the first 1x1.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcovid.models.layers import AxisName, Conv, Maps, show_map, three_channels
from jaxcovid.models.normalization import BatchNorm


class Bottleneck(nn.Module):
    """1x1 to `width`, 3x3, 1x1 to 4 width, each with BN; added to the input, or a 1x1 of it; ReLU.

    Shapes: [b, h, w, c] -> [b, h / stride, w / stride, 4 width].
    """

    width: int
    stride: int
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv_norm(y: jax.Array, features: int, size: int, i: int, stride: int = 1) -> jax.Array:
            y = Conv(features, size, stride, dtype=self.dtype, name=f"conv{i}")(y)
            return BatchNorm(self.axis_name, name=f"norm{i}")(y, train=train)

        y = nn.relu(conv_norm(x, self.width, 1, 1))
        y = nn.relu(conv_norm(y, self.width, 3, 2, self.stride))
        y = conv_norm(y, 4 * self.width, 1, 3)
        if x.shape != y.shape:
            x = Conv(4 * self.width, 1, self.stride, dtype=self.dtype, name="shortcut_conv")(x)
            x = BatchNorm(self.axis_name, name="shortcut_norm")(x, train=train)
        return nn.relu(x + y)


class Stage(nn.Module):
    """`depth` bottlenecks, the first of which has the stride.

    Shapes: [b, h, w, c] -> [b, h / stride, w / stride, 4 width].

    Attributes:
      explained: Grad-CAM reads the last map.
    """

    depth: int
    width: int
    stride: int
    dtype: Any = jnp.float32
    axis_name: AxisName = None
    explained: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i in range(1, self.depth + 1):
            stride = self.stride if i == 1 else 1
            block = Bottleneck(self.width, stride, self.dtype, self.axis_name, name=f"block{i}")
            x = block(x, train=train)
        return show_map(self, x) if self.explained else x


class ResNet(nn.Module):
    """Maps of ResNet at four sizes, see `backbones`: after each stage, which ends with a ReLU.

    With the defaults it is ResNet-50: 256, 512, 1024 and 2048 channels, 23,508,032 parameters. One
    channel stands for three equal ones.

    Attributes:
      width: channels after the stem.
      depths: bottlenecks of each of the four stages.
      dtype: dtype of activations and products; parameters and moments are float32.
      axis_name: see `models.normalization`.
    """

    width: int = 64
    depths: tuple[int, ...] = (3, 4, 6, 3)
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Maps:
        image = three_channels(image)
        x = Conv(self.width, 7, stride=2, dtype=self.dtype, name="stem_conv")(image)
        x = nn.relu(BatchNorm(self.axis_name, name="stem_norm")(x, train=train))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        maps = []
        for i, depth in enumerate(self.depths, start=1):
            stage = Stage(
                depth,
                self.width * 2 ** (i - 1),
                stride=1 if i == 1 else 2,
                dtype=self.dtype,
                axis_name=self.axis_name,
                explained=i == 3,
                name=f"stage{i}",
            )
            x = stage(x, train=train)
            maps.append(x)
        return tuple(maps)
