"""Feature pyramid attention of the Pyramid Attention Network (Li et al., arXiv:1805.10180)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcovid.models.layers import AxisName, Conv
from jaxcovid.models.normalization import BatchNorm


class ConvNormRelu(nn.Module):
    """Convolution with bias, BN, ReLU."""

    features: int
    size: int
    stride: int
    dtype: Any
    axis_name: AxisName

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = Conv(
            self.features, self.size, self.stride, use_bias=True, dtype=self.dtype, name="conv"
        )
        return nn.relu(BatchNorm(self.axis_name, name="norm")(conv(x), train=train))


def upsample(x: jax.Array, like: jax.Array) -> jax.Array:
    """Bilinear resize of `x` to the height and width of `like`, half-pixel centres."""
    return jax.image.resize(x, (*x.shape[:1], *like.shape[1:3], x.shape[-1]), "bilinear")


class PyramidAttention(nn.Module):
    """Attention that looks at three scales of the map and gates it pixel by pixel.

    `out = attention * mid + gap`, where `mid` is a 1x1 convolution of the map, `gap` one of its
    global mean, and `attention` a pyramid of 7x7, 5x5 and 3x3 convolutions at stride 2 with
    lateral connections. No sigmoid. Shapes: [b, h, w, c] -> [b, h, w, c], any h and w.

    Attributes:
      wide: False is the compact form (one-channel pyramid, jfhealthcare/Chexpert: 2,153,607
        parameters at c = 1024); True gives the pyramid c / 4 channels and the laterals c, as in
        the PAN paper.
      dtype: dtype of activations and products.
      axis_name: see `models.normalization`.
    """

    wide: bool = False
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        width, lateral = (channels // 4, channels) if self.wide else (1, 1)

        def conv(y: jax.Array, features: int, size: int, name: str, stride: int = 1) -> jax.Array:
            layer = ConvNormRelu(features, size, stride, self.dtype, self.axis_name, name=name)
            return layer(y, train=train)

        gap = conv(x.mean((1, 2), keepdims=True), channels, 1, "gap")
        mid = conv(x, channels, 1, "mid")
        down1 = conv(x, width, 7, "down1", stride=2)
        down2 = conv(down1, width, 5, "down2", stride=2)
        down3 = conv(down2, width, 3, "down3", stride=2)
        lateral1 = conv(down1, lateral, 7, "lateral1")
        lateral2 = conv(down2, lateral, 5, "lateral2")
        lateral3 = conv(down3, lateral, 3, "lateral3")
        attention = lateral2 + upsample(lateral3, lateral2)
        attention = lateral1 + upsample(attention, lateral1)
        attention = upsample(attention, x)
        # A one-channel ReLU gate can die; then only `gap` is left and heatmaps are flat. The train
        # step logs this share.
        self.sow("intermediates", "positive_attention_share", (attention > 0).mean())
        return attention * mid + gap
