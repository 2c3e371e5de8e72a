"""DenseNet-121 (Huang et al., arXiv:1608.06993), the backbone of both networks of the paper.

The modules here hold the parameters and running moments; what is computed with them stands in
`dense_block` and `downsampling`. A gray image is never expanded to three equal channels: the stem
sums its kernel over them instead, which is the same function.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcovid.models import dense_block, downsampling
from jaxcovid.models.dense_block import LayerWeights
from jaxcovid.models.layers import he_normal
from jaxcovid.models.normalization import BatchNorm, Moments, NormWeights, Running


class Kernel(nn.Module):
    """The kernel of a convolution without bias, float32 `shape`."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param("kernel", he_normal, self.shape, jnp.float32)


class DenseLayer(nn.Module):
    """What a layer holds: BN, ReLU, 1x1 to `4 * growth`, BN, ReLU, 3x3 to `growth` channels."""

    growth_rate: int

    @nn.compact
    def __call__(self, channels: int) -> tuple[LayerWeights, tuple[Running, Running]]:
        width = 4 * self.growth_rate
        norm1, norm2 = NormWeights(name="norm1")(channels), NormWeights(name="norm2")(width)
        weights = LayerWeights(
            norm1.scale,
            norm1.bias,
            Kernel((1, 1, channels, width), name="conv1")(),
            norm2.scale,
            norm2.bias,
            Kernel((3, 3, width, self.growth_rate), name="conv2")(),
        )
        return weights, (norm1.running, norm2.running)


class DenseBlock(nn.Module):
    """`depth` dense layers, each reading all feature maps before it; c -> c + depth * growth."""

    depth: int
    growth_rate: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, Moments | None]:
        """Returns the concatenated map [b, h, w, c + depth * growth] and its batch moments."""
        channels = [x.shape[-1] + i * self.growth_rate for i in range(self.depth)]
        layers = [
            DenseLayer(self.growth_rate, name=f"layer{i}")(c)
            for i, c in enumerate(channels, start=1)
        ]
        weights, running = zip(*layers, strict=True)
        if not train:
            return dense_block.infer(x, weights, [(a.moments, b.moments) for a, b in running]), None
        x, outer, inner = dense_block.train(x, weights, self.axis_name)
        for c, (running1, running2), own in zip(channels, running, inner, strict=True):
            running1.update(outer.of(0, c))
            running2.update(own)
        return x, outer


class Transition(nn.Module):
    """BN, ReLU, 2x2 average pooling, 1x1 to half the channels."""

    @nn.compact
    def __call__(self, x: jax.Array, moments: Moments | None, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        norm = NormWeights(name="norm")(channels)
        kernel = Kernel((1, 1, channels, channels // 2), name="conv")()
        if train:
            norm.running.update(moments)
        else:
            moments = norm.running.moments
        return downsampling.transition(x, kernel, norm.scale, norm.bias, moments)


class DenseNet(nn.Module):
    """DenseNet features: [b, h, w, 1 or 3] -> [b, h / 32, w / 32, c], after the final BN + ReLU.

    The defaults are DenseNet-121: c = 1024 and 6,953,856 parameters.

    Attributes:
      growth_rate: channels that each layer adds.
      depths: layers of each block.
      dtype: dtype of activations and products; parameters stay float32.
      axis_name: see `normalization`.
    """

    growth_rate: int = 32
    depths: tuple[int, ...] = (6, 12, 24, 16)
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> jax.Array:
        features = 2 * self.growth_rate
        kernel = Kernel((7, 7, 3, features), name="stem_conv")()
        if image.shape[-1] == 1:
            kernel = kernel.sum(2, keepdims=True)
        norm = NormWeights(name="stem_norm")(features)
        stem = image.astype(self.dtype), kernel, norm.scale, norm.bias
        if train:
            x, moments = downsampling.stem(*stem, self.axis_name)
            norm.running.update(moments)
        else:
            x = downsampling.infer_stem(*stem, norm.running.moments)
        for i, depth in enumerate(self.depths, start=1):
            block = DenseBlock(depth, self.growth_rate, self.axis_name, name=f"block{i}")
            x, moments = block(x, train=train)
            # For heatmaps; nothing where none is asked for.
            if i == len(self.depths) - 1 and not self.is_initializing():
                self.sow("maps", "explained", x)
                x = self.perturb("explained", x)
            if i < len(self.depths):
                x = Transition(name=f"transition{i}")(x, moments, train=train)
        return nn.relu(BatchNorm(name="final_norm")(x, train=train, moments=moments))
