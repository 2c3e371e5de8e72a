"""Loops over a batch a few images at a time, for functions with a backward pass of their own.

On a CPU a feature map of a batch is larger than the caches. An operation that streams it through
memory costs as much as a product; a chain of operations on a few images does not.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxcovid.models.fused.execution import Execution


class Chunks:
    """A loop over the images of a map, `images` at a time in `count` chunks."""

    def __init__(self, x: jax.Array, execution: Execution) -> None:
        """Chooses the size of a chunk for a map like `x` [b, h, w, c], the rows of one device."""
        images = fitting = x.shape[0]
        if execution.chunk_bytes is not None:
            fitting = execution.chunk_bytes // (math.prod(x.shape[1:]) * x.dtype.itemsize)
        self.images = max(
            n for n in range(1, images + 1) if n <= max(1, fitting) and not images % n
        )
        self.count = images // self.images

    def each(self, body: Callable[[Any, Any], tuple[Any, Any]], carry: Any) -> tuple[Any, Any]:
        """Runs `body` for each chunk.

        Args:
          body: (index, carry) -> the next carry, and what a chunk adds beside it: a pytree or None.
          carry: of the first chunk.

        Returns:
          The last carry, and what the chunks added, stacked: [chunks, ...]. Small sums are faster
          so than added up in the carry, where XLA fuses the addition into a slower sum.
        """
        if self.count == 1:
            carry, added = body(0, carry)
            return carry, jax.tree.map(lambda value: value[None], added)
        return jax.lax.scan(lambda carry, index: body(index, carry), carry, jnp.arange(self.count))

    def read(self, x: jax.Array, index: Any, start: int = 0, stop: int | None = None) -> jax.Array:
        """The images of a chunk, channels `start` to `stop`: [images, h, w, stop - start]."""
        _, h, w, channels = x.shape
        size = (self.images, h, w, (channels if stop is None else stop) - start)
        place = (index * self.images, 0, 0, start)
        return jax.lax.dynamic_slice(x, place, size, allow_negative_indices=False)

    def write(self, x: jax.Array, part: jax.Array, index: Any, start: int = 0) -> jax.Array:
        """`x` with the channels of a chunk from `start` on replaced by `part`."""
        place = (index * self.images, 0, 0, start)
        return jax.lax.dynamic_update_slice(x, part, place, allow_negative_indices=False)
