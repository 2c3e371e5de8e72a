"""DenseNet-121 (Huang et al., arXiv:1608.06993), the backbone of both networks of the paper.

Written for speed on the same function: the batch moments of a feature map are computed once and
shared by all later layers of its block, a transition averages before its 1x1 convolution (both are
linear, and the product shrinks to a quarter), and a gray image is never expanded to three equal
channels: the stem sums its kernel over them instead.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcovid.models.layers import Conv, average_pool, max_pool
from jaxcovid.models.normalization import BatchNorm, Moments, batch_moments, join_moments


class DenseLayer(nn.Module):
    """BN, ReLU, 1x1 to `4 * growth` channels, BN, ReLU, 3x3 to `growth` channels."""

    growth: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, moments: Moments | None, *, train: bool) -> jax.Array:
        y = nn.relu(BatchNorm(name="norm1")(x, train=train, moments=moments))
        y = Conv(4 * self.growth, 1, dtype=self.dtype, name="conv1")(y)
        y = nn.relu(BatchNorm(name="norm2")(y, train=train))
        return Conv(self.growth, 3, dtype=self.dtype, name="conv2")(y)


class DenseBlock(nn.Module):
    """`depth` dense layers, each reading all feature maps before it; c -> c + depth * growth."""

    depth: int
    growth: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, Moments | None]:
        """Returns the concatenated map [b, h, w, c + depth * growth] and its batch moments."""
        moments = batch_moments(x) if train else None
        for i in range(self.depth):
            layer = DenseLayer(self.growth, self.dtype, name=f"layer{i + 1}")
            new = layer(x, moments, train=train)
            x = jnp.concatenate([x, new], axis=-1)
            moments = join_moments(moments, batch_moments(new)) if train else None
        return x, moments


class Transition(nn.Module):
    """BN, ReLU, 2x2 average pooling, 1x1 to half the channels."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, moments: Moments | None, *, train: bool) -> jax.Array:
        y = nn.relu(BatchNorm(name="norm")(x, train=train, moments=moments))
        y = average_pool(y)
        return Conv(x.shape[-1] // 2, 1, dtype=self.dtype, name="conv")(y)


class DenseNet(nn.Module):
    """DenseNet features: [b, h, w, 1 or 3] -> [b, h / 32, w / 32, c], after the final BN + ReLU.

    The defaults are DenseNet-121: c = 1024 and 6,953,856 parameters.

    Attributes:
      growth: channels that each layer adds.
      depths: layers of each block.
      dtype: dtype of activations and products; parameters stay float32.
    """

    growth: int = 32
    depths: tuple[int, ...] = (6, 12, 24, 16)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        stem = Conv(2 * self.growth, 7, 2, in_channels=3, dtype=self.dtype, name="stem_conv")
        x = stem(image)
        x = nn.relu(BatchNorm(name="stem_norm")(x, train=train))
        x = max_pool(x)
        for i, depth in enumerate(self.depths, start=1):
            block = DenseBlock(depth, self.growth, self.dtype, name=f"block{i}")
            x, moments = block(x, train=train)
            if i < len(self.depths):
                x = Transition(self.dtype, name=f"transition{i}")(x, moments, train=train)
        return nn.relu(BatchNorm(name="final_norm")(x, train=train, moments=moments))
