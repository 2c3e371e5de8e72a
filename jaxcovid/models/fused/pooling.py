"""Pooling as each platform computes it best.

XLA derives a scatter as the gradient of the maximum. A TPU has an instruction for it; on a CPU it
does not vectorise, and on a GPU it adds atomically. There the gradient is made of comparisons. The
average is one over a window on a TPU, and one over two axes more elsewhere.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


def max_pool(x: jax.Array, *, platform: str) -> jax.Array:
    """Maximum over 3x3 windows at stride 2, [b, h, w, c] -> [b, ceil(h / 2), ceil(w / 2), c].

    Of equal values in a window the first, row by row, gets the gradient, as in PyTorch.
    """
    return _max_pool(x) if platform == "tpu" else _max_pool_by_comparisons(x)


def average_pool(x: jax.Array, *, platform: str) -> jax.Array:
    """Mean over 2x2 windows at stride 2, [b, h, w, c] -> [b, h // 2, w // 2, c]."""
    if platform == "tpu":
        return nn.avg_pool(x, (2, 2), strides=(2, 2))
    b, h, w, c = x.shape
    cropped = x[:, : h // 2 * 2, : w // 2 * 2]
    return cropped.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


_max_pool_by_comparisons = jax.custom_vjp(_max_pool)


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = _max_pool(x)
    return y, (x, y)


def _max_pool_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array]:
    """Spreads `dy` by comparisons alone."""
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
            shares[i, j] = jnp.where(hit, dy, 0)

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
    dx = jnp.stack([even, odd], axis=2).reshape(x.shape[0], 2 * h, 2 * w, x.shape[-1])
    return (dx[:, :rows, :columns],)


_max_pool_by_comparisons.defvjp(_max_pool_forward, _max_pool_backward)
