"""The light CNN of Polsinelli et al. (arXiv:2004.12837), the paper's reference [29], as a backbone.

SqueezeNet (Iandola et al., arXiv:1602.07360) whose fire modules are normalised and end in ELU, and
whose last map is enlarged four times and joined with one of the second module.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcovid.models.layers import AxisName, Conv, Maps, he_normal, show_map, three_channels
from jaxcovid.models.normalization import BatchNorm

SQUEEZED = ((16, 16, 32), (32, 48, 48, 64), (64,))  # channels, between the three maxima
JOINED = 256  # channels after the join


class Fire(nn.Module):
    """1x1 to few channels, BN, ELU, then 1x1 and 3x3 side by side, ELU.

    Shapes: [b, h, w, c] -> [b, h, w, 8 squeezed].
    """

    squeezed: int
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(features: int, size: int, name: str) -> Conv:
            return Conv(features, size, use_bias=True, dtype=self.dtype, name=name)

        x = conv(self.squeezed, 1, "squeeze")(x)
        x = nn.elu(BatchNorm(self.axis_name, name="norm")(x, train=train))
        sides = [conv(4 * self.squeezed, size, f"expand{size}")(x) for size in (1, 3)]
        return nn.elu(jnp.concatenate(sides, axis=-1))


class LightCNN(nn.Module):
    """Maps [b, h / s, w / s, c] for s of 4, 8, 16 and 4; the last one is what a classifier reads.

    So it serves screening alone. One channel stands for three equal ones.

    Attributes:
      squeezed: channels that fire modules squeeze to, of the three groups between halvings.
      dtype: dtype of activations and products; parameters and moments are float32.
      axis_name: see `models.normalization`.
    """

    squeezed: tuple[tuple[int, ...], ...] = SQUEEZED
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Maps:
        shared = {"dtype": self.dtype, "axis_name": self.axis_name}
        x = three_channels(image)
        stem = Conv(
            6 * self.squeezed[0][0], 7, 2, use_bias=True, dtype=self.dtype, name="stem_conv"
        )
        x = nn.elu(stem(x))
        maps, fires = [], []
        for group in self.squeezed:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
            for squeezed in group:
                x = Fire(squeezed, **shared, name=f"fire{len(fires) + 2}")(x, train=train)
                fires.append(x)
            maps.append(x)
        x = show_map(self, x)
        enlarged = nn.ConvTranspose(
            x.shape[-1] // 4,
            (4, 4),
            strides=(4, 4),
            kernel_init=he_normal,
            dtype=self.dtype,
            name="final_enlarge",
        )(x)
        height, width = fires[1].shape[1:3]  # which 16 need not divide
        joined = jnp.concatenate([enlarged[:, :height, :width], fires[1]], axis=-1)
        y = Conv(JOINED, 1, use_bias=True, dtype=self.dtype, name="final_conv")(joined)
        return (*maps, nn.elu(y))
