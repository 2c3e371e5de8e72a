"""Convolution as every part of the networks uses it, and its initialisation."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# Mesh axes over which devices normalise together, see `models.normalization`.
AxisName = str | tuple[str, ...] | None
# Of a backbone: [b, h / s, w / s, c] for s of 4, 8, 16 and 32.
Maps = tuple[jax.Array, ...]

# He et al., arXiv:1502.01852: untruncated normal, fan-in; the initialisation of the reference.
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def accumulation_dtype(dtype: Any) -> Any:
    """The dtype in which sums over values of `dtype` are kept: float32, or float64 of float64."""
    return jnp.promote_types(dtype, jnp.float32)


def three_channels(image: jax.Array) -> jax.Array:
    """Images [b, h, w, 3] of images [b, h, w, 1 or 3]: one channel stands for three equal ones."""
    return jnp.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def show_map(module: nn.Module, x: jax.Array) -> jax.Array:
    """Returns `x`; keeps it as the map that `inference.grad_cam` reads, where that asks for it."""
    if module.is_initializing():
        return x
    module.sow("maps", "explained", x)
    return module.perturb("explained", x)


def convolve(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """Convolution of `x` [b, h, w, c] with `kernel` [k, k, c, d], k // 2 zeros on each side."""
    size = kernel.shape[0]
    if size == stride == 1:
        return jnp.dot(x, kernel[0, 0])
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(size // 2, size // 2)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


class Conv(nn.Module):
    """Square convolution with PyTorch's symmetric padding k // 2; kernel [k, k, c_in, features]."""

    features: int
    size: int
    stride: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", he_normal, shape, jnp.float32)
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), stride=self.stride)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype).reshape(1, 1, 1, -1)
        return y
