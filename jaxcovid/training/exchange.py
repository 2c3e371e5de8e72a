"""What the devices of a step exchange beside the moments of batch normalisation.

The gradients are reduced part by part of the network, while the backward pass computes those of
earlier parts. All of this runs under `shard_map`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.flatten_util import ravel_pytree

from jaxcovid.runtime.sharding import BATCH_AXIS, SLICE_AXIS

GROUP_AXIS = "group"  # over groups of devices of a slice that normalise together
AXES = (SLICE_AXIS, GROUP_AXIS, BATCH_AXIS)  # of the mesh; the last is over a group's devices
_WITHIN_SLICE = (GROUP_AXIS, BATCH_AXIS)
BUCKET_BYTES = 2**20  # of fewer bytes, an all-reduce takes about as long for any number
_LANES = 128  # of a TPU, whose compiler gathers no vector that does not fill them
_Path = tuple[str, ...]


@contextmanager
def noted_calls() -> Iterator[list[_Path]]:
    """The paths of modules in the order in which they are called meanwhile."""
    calls: list[_Path] = []

    def note(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if context.module.scope is not None:  # else its variables are not in use
            calls.append(context.module.path)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        yield calls


def make_buckets(gradients: Any, calls: Sequence[_Path]) -> list[dict[_Path, jax.Array]]:
    """Gradients by their paths, in the order in which the backward pass has finished them.

    That is the reverse of the order in which the forward pass calls the modules. A bucket has
    `BUCKET_BYTES` or more and whole parts of the network, such as a dense block; but for the last
    one, which may be smaller.

    Args:
      gradients: a nested dict.
      calls: see `noted_calls`.
    """
    order = {path: place for place, path in reversed(list(enumerate(calls)))}
    parts: dict[_Path, dict[_Path, jax.Array]] = {}
    for path, gradient in traverse_util.flatten_dict(gradients).items():
        parts.setdefault(path[:-1][:2], {})[path] = gradient
    buckets: list[dict[_Path, jax.Array]] = [{}]
    for part in sorted(parts, key=lambda part: order[part], reverse=True):
        if sum(gradient.nbytes for gradient in buckets[-1].values()) >= BUCKET_BYTES:
            buckets.append({})
        buckets[-1] |= parts[part]
    return buckets


def mean_gradients(gradients: Any, others: Any, calls: Sequence[_Path]) -> tuple[Any, Any]:
    """Means over all devices of gradients and of what goes with them, such as metrics.

    Args:
      gradients: a nested dict.
      others: any pytree; it goes with the last bucket.
      calls: of the forward pass, see `noted_calls`.
    """
    *buckets, last = make_buckets(gradients, calls)
    vectors, unravels = zip(*map(ravel_pytree, (*buckets, (last, others))), strict=True)
    means: list[jax.Array] = []
    for vector in vectors:
        if means:
            # One after the other: XLA would else join them, and run all of them at the end.
            vector, means[-1] = jax.lax.optimization_barrier((vector, means[-1]))
        means.append(_mean(vector))
    *buckets, (last, others) = (
        unravel(mean) for unravel, mean in zip(unravels, means, strict=True)
    )
    paths = {path: mean for bucket in (*buckets, last) for path, mean in bucket.items()}
    return traverse_util.unflatten_dict(paths), others


def _mean(vector: jax.Array) -> jax.Array:
    """The mean over all devices of a vector.

    Between slices each device carries one share of the vector, of as many as a slice has devices.
    """
    if jax.lax.axis_size(SLICE_AXIS) == 1:
        return jax.lax.pmean(vector, AXES)
    devices = jax.lax.axis_size(_WITHIN_SLICE)
    padded = jnp.pad(vector, (0, -vector.size % (_LANES * devices)))
    share = jax.lax.psum_scatter(padded, _WITHIN_SLICE, tiled=True)
    share = jax.lax.psum(share, SLICE_AXIS) / jax.lax.axis_size(AXES)
    return jax.lax.all_gather(share, _WITHIN_SLICE, tiled=True)[: vector.size]
