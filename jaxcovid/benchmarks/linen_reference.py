"""Deep-CT-Net as it is usually written in Flax linen, and its train step: what to be faster than.

The same function as `models.deep_ct_net`, which tests compare with it. Autodiff, concatenation and
`flax.linen.BatchNorm` do everything.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


class ConvNormRelu(nn.Module):
    """Convolution with bias, BN, ReLU."""

    features: int
    size: int
    stride: int
    norm: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        window, padding = (self.size,) * 2, self.size // 2
        x = nn.Conv(self.features, window, self.stride, padding, dtype=self.dtype, name="conv")(x)
        return nn.relu(self.norm(name="norm")(x))


class DeepCTNet(nn.Module):
    """Logits float32 [b, 1] of images [b, h, w, 1], for each of three equal channels."""

    depths: tuple[int, ...] = (6, 12, 24, 16)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> jax.Array:
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(
            nn.BatchNorm, not train, momentum=0.9, dtype=self.dtype, use_fast_variance=False
        )
        x = jnp.repeat(image, 3, axis=-1)
        x = nn.relu(norm()(conv(64, (7, 7), 2, 3)(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for i, depth in enumerate(self.depths):
            for _ in range(depth):
                y = conv(128, (1, 1))(nn.relu(norm()(x)))
                x = jnp.concatenate([x, conv(32, (3, 3))(nn.relu(norm()(y)))], -1)
            if i < len(self.depths) - 1:
                x = conv(x.shape[-1] // 2, (1, 1))(nn.relu(norm()(x)))
                x = nn.avg_pool(x, (2, 2), (2, 2))
        x = self._attend(nn.relu(norm()(x)), norm)
        x = norm()(x).astype(jnp.float32)
        return nn.Dense(1)(x.reshape(x.shape[0], -1))

    def _attend(self, x: jax.Array, norm: Any) -> jax.Array:
        """The compact pyramid attention of `models.pyramid_attention`."""

        def conv(y: jax.Array, features: int, size: int, stride: int = 1) -> jax.Array:
            return ConvNormRelu(features, size, stride, norm, self.dtype)(y)

        def upsample(y: jax.Array, like: jax.Array) -> jax.Array:
            return jax.image.resize(y, (*like.shape[:3], y.shape[-1]), "bilinear")

        gap, mid = conv(x.mean((1, 2), keepdims=True), 1024, 1), conv(x, 1024, 1)
        down1 = conv(x, 1, 7, 2)
        down2 = conv(down1, 1, 5, 2)
        down3 = conv(down2, 1, 3, 2)
        lateral1, lateral2, lateral3 = conv(down1, 1, 7), conv(down2, 1, 5), conv(down3, 1, 3)
        attention = lateral2 + upsample(lateral3, lateral2)
        attention = upsample(lateral1 + upsample(attention, lateral1), x)
        return attention * mid + gap


def train_step(
    variables: Any, opt_state: Any, batch: Any, *, model: nn.Module, optimizer: Any
) -> tuple[Any, Any, jax.Array]:
    """The next variables and optimizer's state, and the loss."""

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        logits, updates = model.apply(
            {**variables, "params": params}, batch["image"], True, mutable=["batch_stats"]
        )
        return optax.sigmoid_binary_cross_entropy(logits, batch["target"]).mean(), updates

    (loss, batch_stats), grads = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
    updates, opt_state = optimizer.update(grads, opt_state)
    params = optax.apply_updates(variables["params"], updates)
    return {"params": params, **batch_stats}, opt_state, loss
