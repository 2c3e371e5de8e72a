"""Gradients of convolutions as matrix products.

On a CPU, XLA computes the weight gradient of a convolution through slow layouts. GPUs and TPUs keep
what XLA derives, but for 1x1 convolutions, which are products anyway.
"""

import jax
import jax.numpy as jnp

from jaxcovid.models.layers import accumulation_dtype


def convolve_backward(x: jax.Array, w: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gradients of a convolution at stride 1 by its input and its kernel.

    Args:
      x: the input [b, h, w, c].
      w: the kernel [k, k, c, d].
      dy: gradient by the output [b, h, w, d].

    Returns:
      dx, shape and dtype of `x`, and dw, shape of `w`, float32.
    """
    size, _, c, d = w.shape
    # Both are products with the same shifted copies of dy, which in a dense layer is far thinner
    # than x.
    if size > 1:
        rows, columns = dy.shape[1:3]
        padded = jnp.pad(dy, _margin(size))
        dy = jnp.concatenate(
            [padded[:, i : i + rows, j : j + columns] for i, j in reversed(_places(size))], -1
        )
    dx = jnp.dot(dy, w.swapaxes(2, 3).reshape(-1, c))
    dw = _product(x.reshape(-1, c).T, dy.reshape(-1, size * size * d))
    return dx, dw.reshape(c, size, size, d).transpose(1, 2, 0, 3)


def strided_weight_gradient(x: jax.Array, dy: jax.Array, size: int, *, stride: int) -> jax.Array:
    """Gradient of a strided convolution by its kernel, dw float32 [size, size, c, d].

    Args:
      x: the input [b, h, w, c].
      dy: gradient by the output [b, h / stride, w / stride, d].
      size: of the kernel.
      stride: of the convolution.
    """
    c, d = x.shape[-1], dy.shape[-1]
    rows, columns = (stride * n for n in dy.shape[1:3])
    padded = jnp.pad(x, _margin(size))
    patches = jnp.stack(
        [padded[:, i : i + rows : stride, j : j + columns : stride] for i, j in _places(size)]
    )
    patches = patches.transpose(0, 4, 1, 2, 3).reshape(size * size * c, -1)
    return _product(patches, dy.reshape(-1, d)).reshape(size, size, c, d)


def _places(size: int) -> list[tuple[int, int]]:
    """Row and column of each place in a kernel."""
    return [(i, j) for i in range(size) for j in range(size)]


def _margin(size: int) -> tuple[tuple[int, int], ...]:
    return ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0))


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.dot(a, b, preferred_element_type=accumulation_dtype(a.dtype))
