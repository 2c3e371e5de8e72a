"""Going through a batch a few images at a time, for functions with a backward pass of their own.

On a CPU a feature map of a batch is larger than the caches. An operation that streams it through
memory costs as much as a product; a chain of operations on a few images does not.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

CHUNK_BYTES = 5 * 2**20  # of the largest map of a chain; a few of them fit into the cache


class Chunks:
    """Goes through the images of a map some at a time."""

    def __init__(self, x: jax.Array) -> None:
        """Chooses the images of a chunk for a map like `x` [b, h, w, c], one device's rows.

        All of them on an accelerator, which wants the whole.
        """
        images = fitting = x.shape[0]
        if jax.default_backend() == "cpu":
            fitting = CHUNK_BYTES // (math.prod(x.shape[1:]) * x.dtype.itemsize)
        self.images = max(
            n for n in range(1, images + 1) if n <= max(1, fitting) and not images % n
        )
        self.count = images // self.images

    def each(self, body: Callable[[Any, Any], tuple[Any, Any]], carry: Any) -> tuple[Any, Any]:
        """Goes through all chunks.

        Args:
          body: (index, carry) -> the next carry, and what a chunk adds beside it: a pytree or None.
          carry: of the first chunk.

        Returns:
          The last carry, and what the chunks added, stacked: [chunks, ...]. Small sums are faster
          so than added up in the carry, where XLA fuses the addition into a slower sum.
        """
        if self.count == 1:
            carry, found = body(0, carry)
            return carry, jax.tree.map(lambda value: value[None], found)
        return jax.lax.scan(lambda carry, index: body(index, carry), carry, jnp.arange(self.count))

    def read(self, x: jax.Array, index: Any, start: int = 0, stop: int | None = None) -> jax.Array:
        """The images of a chunk, channels `start` to `stop`: [images, h, w, stop - start]."""
        _, h, w, channels = x.shape
        size = (self.images, h, w, (channels if stop is None else stop) - start)
        place = (index * self.images, 0, 0, start)
        return jax.lax.dynamic_slice(x, place, size, allow_negative_indices=False)

    def write(self, x: jax.Array, part: jax.Array, index: Any, start: int = 0) -> jax.Array:
        """`x` with a chunk's channels from `start` on replaced."""
        place = (index * self.images, 0, 0, start)
        return jax.lax.dynamic_update_slice(x, part, place, allow_negative_indices=False)
