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
    """Means over all devices of gradients and of what the forward pass has made.

    Args:
      gradients: a nested dict.
      others: any pytree, such as running moments; the first of the all-reduces is theirs.
      calls: of the forward pass, see `noted_calls`.
    """
    trees = (others, *make_buckets(gradients, calls))
    vectors, unravels = zip(*map(ravel_pytree, trees), strict=True)
    sums: list[jax.Array] = []
    for vector in vectors:
        if sums:
            # One after the other: XLA would else join them, and run all of them at the end.
            vector, sums[-1] = jax.lax.optimization_barrier((vector, sums[-1]))
        sums.append(_sum(vector))
    devices = jax.lax.axis_size(AXES)
    # Divided one by one, those of one shape are one kernel on a GPU; the optimizer, however, takes
    # all gradients as one vector.
    others = jax.tree.map(lambda x: x / devices, unravels[0](sums[0]))
    paths: dict[_Path, jax.Array] = {}
    for unravel, total in zip(unravels[1:], sums[1:], strict=True):
        paths |= unravel(total / devices)
    return traverse_util.unflatten_dict(paths), others


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
