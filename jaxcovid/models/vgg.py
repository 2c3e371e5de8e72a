"""VGG-16 (Simonyan & Zisserman, arXiv:1409.1556) as a backbone: no normalisation, no attention."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcovid.models.layers import AxisName, Conv, Maps, show_map, three_channels


class VGG(nn.Module):
    """Maps of VGG at four sizes, see `backbones`: after blocks 3, 4 and 5, and half of the last.

    With the defaults it is VGG-16 without its three fully connected layers: 256, 512, 512 and 512
    channels, 14,714,688 parameters. One channel stands for three equal ones.

    Attributes:
      widths: channels of each of the five blocks, each followed by a maximum over 2x2.
      depths: convolutions 3x3 of each block.
      dtype: dtype of activations and products; parameters are float32.
      axis_name: not read, as nothing is normalised.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, image: jax.Array, *, train: bool) -> Maps:
        del train
        x = three_channels(image)
        maps = []
        for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True), start=1):
            for j in range(depth):
                name = f"conv{10 * i + j}"
                x = nn.relu(Conv(width, 3, use_bias=True, dtype=self.dtype, name=name)(x))
            if i == len(self.widths):
                x = show_map(self, x)
            maps.append(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return (*maps[2:], x)
