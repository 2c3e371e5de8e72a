"""DenseNet-121 (Huang et al., arXiv:1608.06993), the backbone of both networks of the paper.

Written for speed on the same function: 1x1 convolutions are matrix products, the batch moments of
a feature map are computed once and shared by all later layers of its block, and a gray image is
never expanded to three equal channels: the stem sums its kernel over them instead.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcovid.models.normalization import BatchNorm, Moments, batch_moments, join_moments

# He et al., arXiv:1502.01852: untruncated normal, fan-in; the initialisation of the reference.
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class PointwiseConv(nn.Module):
    """1x1 convolution as a matrix product; kernel [1, 1, c_in, features]."""

    features: int
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", he_normal, (1, 1, x.shape[-1], self.features), jnp.float32)
        y = jnp.dot(x.astype(self.dtype), kernel[0, 0].astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y


class Conv(nn.Module):
    """Square convolution with PyTorch's symmetric padding k // 2; kernel [k, k, c_in, features].

    A one-channel image given to a kernel of `in_channels` channels stands for that many equal
    channels, and the kernel is summed over them, which is the same function.
    """

    features: int
    size: int
    stride: int = 1
    in_channels: int | None = None
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, self.in_channels or x.shape[-1], self.features)
        kernel = self.param("kernel", he_normal, shape, jnp.float32)
        if x.shape[-1] == 1:
            kernel = kernel.sum(axis=2, keepdims=True)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(self.stride, self.stride),
            padding=[(self.size // 2, self.size // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y


class DenseLayer(nn.Module):
    """BN, ReLU, 1x1 to `4 * growth` channels, BN, ReLU, 3x3 to `growth` channels."""

    growth: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, moments: Moments | None, *, train: bool) -> jax.Array:
        y = nn.relu(BatchNorm(name="norm1")(x, train=train, moments=moments))
        y = PointwiseConv(4 * self.growth, dtype=self.dtype, name="conv1")(y)
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
    """BN, ReLU, 1x1 to half the channels, 2x2 average pooling."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, moments: Moments | None, *, train: bool) -> jax.Array:
        y = nn.relu(BatchNorm(name="norm")(x, train=train, moments=moments))
        y = PointwiseConv(x.shape[-1] // 2, dtype=self.dtype, name="conv")(y)
        return nn.avg_pool(y, (2, 2), strides=(2, 2))


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
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for i, depth in enumerate(self.depths, start=1):
            block = DenseBlock(depth, self.growth, self.dtype, name=f"block{i}")
            x, moments = block(x, train=train)
            if i < len(self.depths):
                x = Transition(self.dtype, name=f"transition{i}")(x, moments, train=train)
        return nn.relu(BatchNorm(name="final_norm")(x, train=train, moments=moments))
