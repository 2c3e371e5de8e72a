"""What the backward pass of a dense block for GPUs and TPUs needs, whatever kernels it runs by."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxcovid.models.fused.dense_block import LayerWeights
from jaxcovid.models.fused.execution import Execution
from jaxcovid.models.fused.normalization import moments_backward, pixel_count, share_gradient
from jaxcovid.models.layers import accumulation_dtype
from jaxcovid.models.normalization import Affine, Moments


class SavedLayer(NamedTuple):
    """What the backward pass of a layer needs.

    Attributes:
      weights: its parameters.
      norm1: its first normalisation.
      norm2: its second one.
      product: the map between its convolutions, [b, h, w, m].
      inner: the moments of that.
    """

    weights: LayerWeights
    norm1: Affine
    norm2: Affine
    product: jax.Array
    inner: Moments


class MapGradient:
    """The gradient by the growing map, a few channels at a time, the last ones first."""

    def __init__(
        self,
        x: jax.Array,
        outer: Moments,
        dx: jax.Array,
        dmoments: Moments,
        execution: Execution,
    ) -> None:
        """Starts with what comes from behind the block.

        Args:
          x: the map [b, h, w, c].
          outer: its moments.
          dx: gradient by the map.
          dmoments: gradient by its moments, of the rows of this device.
          execution: how it runs.
        """
        self._x, self._outer, self._execution = x, outer, execution
        self._dx, self._dmoments = dx, dmoments
        self._readers: list[tuple[Affine, jax.Array, Moments]] = []

    def add(self, norm: Affine, dy: jax.Array, dmoments: Moments) -> None:
        """Adds what a layer gives the channels that it reads.

        Args:
          norm: its first normalisation.
          dy: gradient by the normalised channels after ReLU, [b, h, w, c].
          dmoments: gradient by their moments, of the rows of this device.
        """
        self._readers.append((norm, dy, dmoments))

    def __call__(self, start: int, stop: int) -> jax.Array:
        """The gradient by some channels, of all that read them."""
        part = self._x[..., start:stop]
        total = self._dx[..., start:stop].astype(accumulation_dtype(part.dtype))
        own = self._dmoments.channels(start, stop)
        for norm, dy, dread in self._readers:
            norm = Affine(norm.multiplier[start:stop], norm.shift[start:stop])
            total += jnp.where(norm(part) > 0, norm.backward(dy[..., start:stop]), 0)
            own = Moments(*map(jnp.add, own, dread.channels(start, stop)))
        own = share_gradient(own, self._execution.axis_name)
        pixels = pixel_count(part, self._execution.axis_name)
        total += moments_backward(self._outer.channels(start, stop), own, pixels)(part)
        # Written once: XLA for a TPU would compute it again in each of its two readers.
        return jax.lax.optimization_barrier(total.astype(part.dtype))
