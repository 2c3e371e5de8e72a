"""Convolutions and pooling, and gradients of them that XLA compiles well for a CPU.

On a CPU, XLA computes the weight gradient of a convolution through slow layouts, and the gradient
of a maximum by a scatter that does not vectorise. Here the first is a matrix product, the second
made of comparisons. GPUs and TPUs keep what XLA derives.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# He et al., arXiv:1502.01852: untruncated normal, fan-in; the initialisation of the reference.
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


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


def gradients(x: jax.Array, kernel: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gradients of a convolution at stride 1 by its input, dtype of `x`, and kernel, float32.

    Args:
      x: its input [b, h, w, c].
      kernel: [k, k, c, d].
      g: gradient by its output [b, h, w, d].
    """
    size, _, c, d = kernel.shape
    if size > 1 and jax.default_backend() != "cpu":
        by_x, by_kernel = jax.vjp(convolve, x, kernel)[1](g)
        return by_x, by_kernel.astype(jnp.float32)
    # Both are products with the same shifted copies of g, which in a dense layer is far thinner
    # than x.
    if size > 1:
        h, w = g.shape[1:3]
        padded = jnp.pad(g, _margin(size))
        g = jnp.concatenate(
            [padded[:, i : i + h, j : j + w] for i, j in reversed(_places(size))], -1
        )
    by_x = jnp.dot(g, kernel.swapaxes(2, 3).reshape(-1, c))
    by_kernel = _product(x.reshape(-1, c).T, g.reshape(-1, size * size * d))
    return by_x, by_kernel.reshape(c, size, size, d).transpose(1, 2, 0, 3)


def strided_weight_gradient(x: jax.Array, g: jax.Array, size: int, *, stride: int) -> jax.Array:
    """Gradient of a strided convolution by its kernel, float32 [size, size, c, d].

    Args:
      x: its input [b, h, w, c].
      g: gradient by its output [b, h / stride, w / stride, d].
      size: of the kernel.
      stride: of the convolution.
    """
    c, d = x.shape[-1], g.shape[-1]
    if jax.default_backend() != "cpu":
        kernel = jax.ShapeDtypeStruct((size, size, c, d), x.dtype)
        transpose = jax.linear_transpose(lambda k: convolve(x, k, stride=stride), kernel)
        return transpose(g)[0].astype(jnp.float32)
    h, w = (stride * n for n in g.shape[1:3])
    padded = jnp.pad(x, _margin(size))
    patches = jnp.stack(
        [padded[:, i : i + h : stride, j : j + w : stride] for i, j in _places(size)]
    )
    patches = patches.transpose(0, 4, 1, 2, 3).reshape(size * size * c, -1)
    return _product(patches, g.reshape(-1, d)).reshape(size, size, c, d)


def _places(size: int) -> list[tuple[int, int]]:
    """Row and column of each place in a kernel."""
    return [(i, j) for i in range(size) for j in range(size)]


def _margin(size: int) -> tuple[tuple[int, int], ...]:
    return ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0))


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


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


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


_max_pool_cpu = jax.custom_vjp(_max_pool)


def _max_pool_backward(saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array]:
    """Spreads `g` by comparisons alone: XLA's own select-and-scatter does not vectorise."""
    x, y = saved
    h, w = y.shape[1:3]
    rows, columns = x.shape[1:3]
    padded = jnp.pad(
        x,
        ((0, 0), (1, 2 * h - rows + 1), (1, 2 * w - columns + 1), (0, 0)),
        constant_values=-jnp.inf,
    )
    taken = jnp.zeros(y.shape, bool)
    shares = {}  # of each place in the window, indexed by window
    for i in range(3):
        for j in range(3):
            hit = (padded[:, i : i + 2 * h : 2, j : j + 2 * w : 2] == y) & ~taken
            taken |= hit
            shares[i, j] = jnp.where(hit, g, 0)

    def next_window(share: jax.Array, down: int, right: int) -> jax.Array:
        return jnp.pad(share, ((0, 0), (0, down), (0, right), (0, 0)))[:, down:, right:]

    # Pixels at even rows lie in one window (place 1); at odd rows in two (places 2 and 0).
    even_even = shares[1, 1]
    even_odd = shares[1, 2] + next_window(shares[1, 0], 0, 1)
    odd_even = shares[2, 1] + next_window(shares[0, 1], 1, 0)
    odd_odd = (
        shares[2, 2]
        + next_window(shares[2, 0], 0, 1)
        + next_window(shares[0, 2], 1, 0)
        + next_window(shares[0, 0], 1, 1)
    )
    even = jnp.stack([even_even, even_odd], axis=3)
    odd = jnp.stack([odd_even, odd_odd], axis=3)
    full = jnp.stack([even, odd], axis=2).reshape(x.shape[0], 2 * h, 2 * w, x.shape[-1])
    return (full[:, :rows, :columns],)


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = _max_pool(x)
    return y, (x, y)


_max_pool_cpu.defvjp(_max_pool_forward, _max_pool_backward)


def max_pool(x: jax.Array) -> jax.Array:
    """Maximum over 3x3 windows at stride 2, [b, h, w, c] -> [b, ceil(h / 2), ceil(w / 2), c].

    Of equal values in a window the first, row by row, gets the gradient, as in PyTorch.
    """
    return _max_pool_cpu(x) if jax.default_backend() == "cpu" else _max_pool(x)


def average_pool(x: jax.Array) -> jax.Array:
    """Mean over 2x2 windows at stride 2, [b, h, w, c] -> [b, h // 2, w // 2, c]."""
    b, h, w, c = x.shape
    cropped = x[:, : h // 2 * 2, : w // 2 * 2]
    return cropped.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
