"""The decoder that segments lungs and lesion from the maps of a backbone, in the shape of a U-Net.

From the bottom up (Ronneberger et al., arXiv:1505.04597): the map so far is enlarged to the size
of the next larger one of the backbone, joined with it and convolved. The largest such map has a
quarter of the image's size; that of a half is made of the image itself, so that the backbone need
not keep its own, which is the largest of the network.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcovid.models.layers import AxisName, Conv, Maps
from jaxcovid.models.normalization import BatchNorm
from jaxcovid.models.pyramid_attention import upsample

WIDTHS = (128, 96, 64, 32)  # channels of the maps at a sixteenth, eighth, quarter and half


class Decoder(nn.Module):
    """Logits [b, h, w, outputs] of the image, of a backbone's maps and that after attention.

    Attributes:
      outputs: structures that are segmented, each by a logit of its own: a lesion is in the lungs.
      widths: channels of the decoder's maps, from the smallest to the largest.
      dtype: dtype of activations and products.
      axis_name: see `models.normalization`.
    """

    outputs: int
    widths: tuple[int, ...] = WIDTHS
    dtype: Any = jnp.float32
    axis_name: AxisName = None

    @nn.compact
    def __call__(
        self, image: jax.Array, maps: Maps, attended: jax.Array, *, train: bool
    ) -> jax.Array:
        """Logits float32 [b, h, w, outputs].

        Args:
          image: float32 [b, h, w, 1 or 3].
          maps: of the backbone, the last one of which is not read.
          attended: the last one after attention.
          train: see `BatchNorm`.
        """

        def norm(x: jax.Array, name: str) -> jax.Array:
            return BatchNorm(self.axis_name, name=name)(x, train=train)

        def conv(x: jax.Array, features: int, size: int, name: str, stride: int = 1) -> jax.Array:
            x = Conv(features, size, stride, dtype=self.dtype, name=f"{name}_conv")(x)
            return nn.relu(norm(x, f"{name}_norm"))

        # The maps of a DenseNet are not normalised: its layers do that each for itself.
        x = conv(norm(attended, "bottom_map_norm"), self.widths[0], 1, "bottom")
        for i, (y, width) in enumerate(zip(maps[-2::-1], self.widths, strict=False), start=1):
            y = conv(norm(y, f"lateral{i}_map_norm"), width, 1, f"lateral{i}")
            x = conv(jnp.concatenate([upsample(x, y), y], -1), width, 3, f"up{i}")
        detail = conv(image[..., :1], self.widths[-1], 3, "detail", stride=2)
        x = jnp.concatenate([upsample(x, detail), detail], -1)
        x = conv(conv(x, self.widths[-1], 3, "half1"), self.widths[-1], 3, "half2")
        last = nn.Dense(self.outputs, kernel_init=nn.initializers.normal(0.01), name="masks")
        return upsample(last(x.astype(jnp.float32)), image)
