"""The fused form of `models.densenet`: the same function of the same variables, faster.

The modules here declare parameters and running moments under the names of the plain form; the
functions of `dense_block` and `downsampling` compute with them, each with a backward pass of its
own. What they save: copies of the growing map, normalised maps kept for the backward pass, and
moments computed once for each layer that reads a channel. A gray image is not expanded to three
equal channels: the stem sums its kernel over them instead.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcovid.models.fused import (
    dense_block,
    dense_block_accelerator,
    downsampling,
    stem_accelerator,
)
from jaxcovid.models.fused.dense_block import LayerWeights
from jaxcovid.models.fused.execution import CHUNK_BYTES, Execution
from jaxcovid.models.layers import AxisName, Maps, he_normal
from jaxcovid.models.normalization import BatchNorm, Moments, Norm, RunningMoments, declare_norm


class Kernel(nn.Module):
    """The kernel of a convolution without bias, float32 `shape`."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param("kernel", he_normal, self.shape, jnp.float32)


class NormVariables(nn.Module):
    """Parameters and running moments of a batch normalisation."""

    @nn.compact
    def __call__(self, channels: int) -> Norm:
        return declare_norm(self, channels)


class DenseLayer(nn.Module):
    """The variables of `models.densenet.DenseLayer`."""

    growth_rate: int

    @nn.compact
    def __call__(self, channels: int) -> tuple[LayerWeights, tuple[RunningMoments, RunningMoments]]:
        width = 4 * self.growth_rate
        norm1 = NormVariables(name="norm1")(channels)
        norm2 = NormVariables(name="norm2")(width)
        weights = LayerWeights(
            norm1.gamma,
            norm1.beta,
            Kernel((1, 1, channels, width), name="conv1")(),
            norm2.gamma,
            norm2.beta,
            Kernel((3, 3, width, self.growth_rate), name="conv2")(),
        )
        return weights, (norm1.running, norm2.running)


class DenseBlock(nn.Module):
    """`depth` dense layers as one function; c -> c + depth * growth_rate channels."""

    depth: int
    growth_rate: int
    execution: Execution

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, Moments | None]:
        """Returns the map [b, h, w, c + depth * growth_rate], and in training its moments."""
        channels = [x.shape[-1] + i * self.growth_rate for i in range(self.depth)]
        layers = [
            DenseLayer(self.growth_rate, name=f"layer{i}")(c)
            for i, c in enumerate(channels, start=1)
        ]
        weights, running = zip(*layers, strict=True)
        if not train:
            moments = [(norm1.moments, norm2.moments) for norm1, norm2 in running]
            return dense_block.infer(x, weights, moments, self.execution), None
        form = dense_block if self.execution.platform == "cpu" else dense_block_accelerator
        x, outer, moments = form.train(x, weights, self.execution)
        for (norm1, norm2), (read, inner) in zip(running, moments, strict=True):
            norm1.update(read)
            norm2.update(inner)
        return x, outer


class Transition(nn.Module):
    """BN, ReLU, 2x2 average pooling, 1x1 to half the channels, as one function."""

    execution: Execution

    @nn.compact
    def __call__(self, x: jax.Array, moments: Moments | None, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        norm = NormVariables(name="norm")(channels)
        kernel = Kernel((1, 1, channels, channels // 2), name="conv")()
        if train:
            norm.running.update(moments)
        else:
            moments = norm.running.moments
        return downsampling.transition(x, kernel, norm.gamma, norm.beta, moments, self.execution)


class FusedDenseNet(nn.Module):
    """`models.densenet.DenseNet`, computed by functions with a backward pass of their own.

    Attributes:
      platform: of the devices, see `Execution`.
      growth_rate: see `DenseNet`, as `depths`, `dtype` and `axis_name`.
      chunk_bytes: on a CPU, see `Execution`; other platforms take the batch as a whole.
    """

    platform: str
    growth_rate: int = 32
    depths: tuple[int, ...] = (6, 12, 24, 16)
    dtype: Any = jnp.float32
    axis_name: AxisName = None
    chunk_bytes: int = CHUNK_BYTES

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Maps:
        chunk_bytes = self.chunk_bytes if self.platform == "cpu" else None
        execution = Execution(self.platform, self.axis_name, chunk_bytes)
        x = self._stem(image, execution, train=train)
        maps = []
        for i, depth in enumerate(self.depths, start=1):
            block = DenseBlock(depth, self.growth_rate, execution, name=f"block{i}")
            x, moments = block(x, train=train)
            if i < len(self.depths):
                maps.append(x)
                x = Transition(execution, name=f"transition{i}")(x, moments, train=train)
        x = nn.relu(BatchNorm(name="final_norm")(x, train=train, moments=moments))
        return (*maps, x)

    def _stem(self, image: jax.Array, execution: Execution, *, train: bool) -> jax.Array:
        features = 2 * self.growth_rate
        kernel = Kernel((7, 7, 3, features), name="stem_conv")()
        if image.shape[-1] == 1:
            kernel = kernel.sum(2, keepdims=True)
        norm = NormVariables(name="stem_norm")(features)
        arguments = image.astype(self.dtype), kernel, norm.gamma, norm.beta
        if not train:
            return downsampling.infer_stem(*arguments, norm.running.moments, execution)
        form = downsampling if execution.platform == "cpu" else stem_accelerator
        x, moments = form.stem(*arguments, execution)
        norm.running.update(moments)
        return x
