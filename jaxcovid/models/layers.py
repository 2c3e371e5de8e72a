"""Convolutions and pooling, with backward passes that XLA compiles well for a CPU.

The functions are the usual ones; only how their gradients are computed differs. On a CPU, XLA
computes the weight gradient of a convolution through slow layouts, and fuses the transposition
that such a product needs with the arithmetic before it, which then strides through memory: over
half of a train step. Here these gradients are matrix products of operands that are transposed on
their own. GPUs and TPUs keep the gradients that XLA derives.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

# He et al., arXiv:1502.01852: untruncated normal, fan-in; the initialisation of the reference.
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def _on_its_own(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`function` as a call that XLA neither inlines nor fuses with its neighbours."""
    compiled = jax.jit(function)

    def call(*operands: jax.Array) -> jax.Array:
        with set_xla_metadata(inlineable="false"):
            return compiled(*operands)

    return call


@_on_its_own
def _transposed(a: jax.Array) -> jax.Array:
    return a.T


@_on_its_own
def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return a @ b


@_on_its_own
def _neighbours(g: jax.Array) -> jax.Array:
    """The nine shifts of `g` [b, h, w, c], in the order of a 3x3 kernel: [b, h, w, 9 c]."""
    h, w = g.shape[1:3]
    padded = jnp.pad(g, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [padded[:, i : i + h, j : j + w] for i in (2, 1, 0) for j in (2, 1, 0)]
    return jnp.concatenate(shifts, axis=-1)


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])


@jax.custom_vjp
def _pointwise_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.dot(x, kernel)


def _pointwise_backward(
    saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return jnp.dot(g, kernel.T), _product(_transposed(_rows(g)), _rows(x)).T


_pointwise_cpu.defvjp(lambda x, k: (_pointwise_cpu(x, k), (x, k)), _pointwise_backward)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    margin = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(margin, margin)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@jax.custom_vjp
def _convolve3_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _convolve(x, kernel)


def _convolve3_backward(
    saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    channels, features = kernel.shape[2:]
    product = _product(_transposed(_rows(x)), _rows(_neighbours(g)))
    kernel_gradient = product.reshape(channels, 3, 3, features).transpose(1, 2, 0, 3)
    return _convolve(g, kernel[::-1, ::-1].swapaxes(2, 3)), kernel_gradient


_convolve3_cpu.defvjp(lambda x, k: (_convolve3_cpu(x, k), (x, k)), _convolve3_backward)


def convolve(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """Convolution of `x` [b, h, w, c] with `kernel` [k, k, c, d], k // 2 zeros on each side."""
    on_cpu = jax.default_backend() == "cpu"
    match kernel.shape[0], stride:
        case 1, 1:
            return (_pointwise_cpu if on_cpu else jnp.dot)(x, kernel[0, 0])
        case 3, 1 if on_cpu:
            return _convolve3_cpu(x, kernel)
        case _:
            return _convolve(x, kernel, stride)


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
