"""What the devices of a step exchange beside the moments of batch normalisation.

The gradients are reduced in buckets, those of the last layers first, while the backward pass
computes those of earlier layers. All of this runs under `shard_map`.
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
BUCKET_BYTES = 2**22  # of fewer bytes, an all-reduce takes about as long for any number
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
    """Gradients by their paths, in the order in which the backward pass finishes them.

    That is the reverse of the order in which the forward pass calls the modules. Each bucket but
    the last has `BUCKET_BYTES` or more.

    Args:
      gradients: a nested dict.
      calls: see `noted_calls`.
    """
    order = {path: place for place, path in reversed(list(enumerate(calls)))}
    flat = traverse_util.flatten_dict(gradients)
    buckets: list[dict[_Path, jax.Array]] = [{}]
    for path in sorted(flat, key=lambda path: order[path[:-1]], reverse=True):
        if sum(gradient.nbytes for gradient in buckets[-1].values()) >= BUCKET_BYTES:
            buckets.append({})
        buckets[-1][path] = flat[path]
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
    sums: list[jax.Array] = []
    for vector in vectors:
        if sums:
            # One after the other: XLA would else join them, and run all of them at the end.
            vector, sums[-1] = jax.lax.optimization_barrier((vector, sums[-1]))
        sums.append(_sum(vector))
    *buckets, (last, others) = (
        unravel(total) for unravel, total in zip(unravels, sums, strict=True)
    )
    paths = {path: total for bucket in (*buckets, last) for path, total in bucket.items()}
    # As one array again, as the optimizer takes it. Of many, XLA for a GPU would write each array
    # of the running moments in a kernel of its own, 230 more.
    vector, unravel = ravel_pytree((traverse_util.unflatten_dict(paths), others))
    return unravel(jax.lax.optimization_barrier(vector) / jax.lax.axis_size(AXES))


def _sum(vector: jax.Array) -> jax.Array:
    """The sum over all devices of a vector.

    Between slices each device carries one share of the vector, of as many as a slice has devices.
    """
    if jax.lax.axis_size(SLICE_AXIS) == 1:
        return jax.lax.psum(vector, AXES)
    devices = jax.lax.axis_size(_WITHIN_SLICE)
    padded = jnp.pad(vector, (0, -vector.size % (_LANES * devices)))
    share = jax.lax.psum_scatter(padded, _WITHIN_SLICE, tiled=True)
    share = jax.lax.psum(share, SLICE_AXIS)
    return jax.lax.all_gather(share, _WITHIN_SLICE, tiled=True)[: vector.size]
