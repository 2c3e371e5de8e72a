"""EfficientNet-Lite0 as a backbone: EfficientNet (Tan & Le, arXiv:1905.11946) for small devices.

The Lite form (github.com/tensorflow/tpu, models/official/efficientnet/lite) has ReLU6 in place of
swish, no squeeze-and-excitation, and a stem and head of fixed width. Convolutions are padded as
TensorFlow does it (SAME). Stochastic depth and dropout are left out, and running moments move as in
our other networks: those of ImageNet's training, at 0.99, would take a small data set too long.
"""

import itertools
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcovid.models.layers import (
    AxisName,
    Conv,
    Maps,
    accumulation_dtype,
    he_normal,
    show_map,
    three_channels,
)
from jaxcovid.models.normalization import BatchNorm

EPSILON = 1e-3  # TensorFlow's


class Block(NamedTuple):
    """The shape of an `InvertedBottleneck`."""

    size: int
    stride: int
    expansion: int
    features: int


def _stage(depth: int, first: Block) -> list[Block]:
    """Equal blocks, of which the first alone has a stride."""
    return [first] + [first._replace(stride=1)] * (depth - 1)


BLOCKS = (  # those of EfficientNet-B0
    *_stage(1, Block(3, 1, 1, 16)),
    *_stage(2, Block(3, 2, 6, 24)),
    *_stage(2, Block(5, 2, 6, 40)),
    *_stage(3, Block(3, 2, 6, 80)),
    *_stage(3, Block(5, 1, 6, 112)),
    *_stage(4, Block(5, 2, 6, 192)),
    *_stage(1, Block(3, 1, 6, 320)),
)


def convolve_depthwise(x: jax.Array, kernel: jax.Array, *, stride: int) -> jax.Array:
    """Convolves each channel of `x` [b, h, w, c] with its own kernel in `kernel` [k, k, 1, c].

    It is a sum of shifted products: five to twenty times as fast on a CPU, forward and backward, as
    XLA's grouped convolution. Padded as TensorFlow does it: [b, ceil(h / stride), ...].
    """
    size = kernel.shape[0]
    height, width = (-(-n // stride) for n in x.shape[1:3])
    padding = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0))).astype(accumulation_dtype(x.dtype))
    total = jnp.zeros((), padded.dtype)
    for row, column in itertools.product(range(size), repeat=2):
        # Not padded[:, row::stride], which is a gather where the batch is symbolic.
        stop = (row + (height - 1) * stride + 1, column + (width - 1) * stride + 1)
        shifted = jax.lax.slice(
            padded,
            (0, row, column, 0),
            (x.shape[0], *stop, x.shape[-1]),
            (1, stride, stride, 1),
        )
        total = total + shifted * kernel[row, column].reshape(1, 1, 1, -1)
    return total.astype(x.dtype)


class DepthwiseConv(nn.Module):
    """See `convolve_depthwise`; `grouped` is one operation, as `EfficientNetLite` says."""

    size: int
    stride: int
    dtype: Any = jnp.float32
    grouped: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        shape = (self.size, self.size, 1, channels)
        kernel = self.param("kernel", he_normal, shape, jnp.float32)
        if not self.grouped:
            return convolve_depthwise(x.astype(self.dtype), kernel, stride=self.stride)
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=channels,
        )


class InvertedBottleneck(nn.Module):
    """1x1 to `expansion` c, depthwise `size`, each with BN and ReLU6; 1x1 with BN; plus the input.

    The first 1x1 is left out where it would not expand, the sum where the shapes differ.
    Shapes: [b, h, w, c] -> [b, h / stride, w / stride, features].

    Attributes:
      grouped: see `EfficientNetLite`.
      explained: Grad-CAM reads the expanded map.
    """

    size: int
    stride: int
    expansion: int
    features: int
    dtype: Any = jnp.float32
    axis_name: AxisName = None
    grouped: bool = False
    explained: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def norm(y: jax.Array, name: str) -> jax.Array:
            return BatchNorm(self.axis_name, EPSILON, name=name)(y, train=train)

        y = x
        if self.expansion != 1:
            width = self.expansion * x.shape[-1]
            y = Conv(width, 1, dtype=self.dtype, name="expand_conv")(y)
            y = nn.relu6(norm(y, "expand_norm"))
        if self.explained:
            y = show_map(self, y)
        y = DepthwiseConv(self.size, self.stride, self.dtype, self.grouped, name="depthwise_conv")(
            y
        )
        y = nn.relu6(norm(y, "depthwise_norm"))
        y = Conv(self.features, 1, dtype=self.dtype, name="project_conv")(y)
        y = norm(y, "project_norm")
        return x + y if x.shape == y.shape else y


class EfficientNetLite(nn.Module):
    """Maps of Lite0 at four sizes, see `backbones`: before each halving, and after the last ReLU6.

    With the defaults it has 24, 40, 112 and 1280 channels and 3,371,008 parameters. One channel
    stands for three equal ones.

    Attributes:
      blocks: between stem and head; four of them have stride 2.
      dtype: dtype of activations and products; parameters and moments are float32.
      axis_name: see `models.normalization`.
      grouped: depthwise convolutions are each one operation, which is slow in XLA for a CPU; other
        engines have a kernel for it.
    """

    blocks: tuple[Block, ...] = BLOCKS
    dtype: Any = jnp.float32
    axis_name: AxisName = None
    grouped: bool = False

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Maps:
        def norm(y: jax.Array, name: str) -> jax.Array:
            return BatchNorm(self.axis_name, EPSILON, name=name)(y, train=train)

        image = three_channels(image)
        stem = partial(nn.Conv, use_bias=False, kernel_init=he_normal, dtype=self.dtype)
        x = stem(32, (3, 3), strides=2, padding="SAME", name="stem_conv")(image)
        x = nn.relu6(norm(x, "stem_norm"))
        maps = []
        last_halving = max(i for i, block in enumerate(self.blocks, start=1) if block.stride == 2)
        for i, block in enumerate(self.blocks, start=1):
            if block.stride == 2:
                maps.append(x)
            layer = InvertedBottleneck(
                *block,
                self.dtype,
                self.axis_name,
                self.grouped,
                explained=i == last_halving,
                name=f"block{i}",
            )
            x = layer(x, train=train)
        x = Conv(1280, 1, dtype=self.dtype, name="head_conv")(x)
        return (*maps[1:], nn.relu6(norm(x, "head_norm")))
