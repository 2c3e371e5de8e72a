"""The forward pass over a mesh of devices."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxcovid.data.structures import UNKNOWN
from jaxcovid.models.segmentation_net import SegmentationNet
from jaxcovid.runtime.compiler import compiler_options
from jaxcovid.runtime.sharding import (
    ROW_AXES,
    batch_sharding,
    platform_of,
    replicated_sharding,
)


def forward(variables: Mapping[str, Any], image: jax.Array, *, model: nn.Module) -> jax.Array:
    """Probabilities float32 [b, outputs] of images float32 [b, h, w, 1], inference mode."""
    return model.probabilities(model.apply(variables, image, train=False))


def forward_with_overlaps(
    variables: Mapping[str, Any], image: jax.Array, masks: jax.Array, *, model: SegmentationNet
) -> tuple[jax.Array, jax.Array]:
    """`forward`, and how far the masks of a segmentation agree with given ones.

    Args:
      variables: of the network.
      image: float32 [b, h, w, 1].
      masks: uint8 [b, h, w, structures], see `data.masks`.
      model: the network.

    Returns:
      Probabilities float32 [b, outputs], and int32 [b, structures, 3]: pixels in both masks, in
      that of the network, and in the given one, of those that are known.
    """
    logits = model.apply(variables, image, train=False, method="all_logits")
    known, inside, called = masks != UNKNOWN, masks == 1, logits["masks"] > 0
    overlaps = jnp.stack([called & inside, called & known, inside], -1).sum((1, 2))
    return model.probabilities(model.scores(logits)), overlaps


def features(variables: Mapping[str, Any], image: jax.Array, *, model: nn.Module) -> jax.Array:
    """What the head reads, a mean over places: float32 [b, c] of images float32 [b, h, w, 1]."""
    attended = model.apply(variables, image, method=lambda net, x: net.attend(net.features(x)))
    return attended.astype(jnp.float32).mean((1, 2))


def segment(variables: Mapping[str, Any], image: jax.Array, *, model: SegmentationNet) -> jax.Array:
    """Probabilities float32 [b, h, w, structures] of each pixel of images float32 [b, h, w, 1]."""
    return jax.nn.sigmoid(model.apply(variables, image, method="segment"))


def mark_lungs(
    variables: Mapping[str, Any], image: jax.Array, *, model: SegmentationNet
) -> jax.Array:
    """Where the lungs of images float32 [b, h, w, 1] are, packed to bits: uint8 [b, h * w / 8].

    What is called lesion is lung too: consolidated lung is often left out of the lungs.
    """
    logits = model.apply(variables, image, train=False, method="segment")
    return jnp.packbits((logits > 0).any(-1).reshape(len(image), -1), axis=1)


def jit_forward(mesh: Mesh, *, model: nn.Module, masks: bool = False) -> Any:
    """`forward` compiled over `mesh`; with `masks`, `forward_with_overlaps`."""
    if masks:
        return jit_rows(forward_with_overlaps, mesh, model=model, arguments=2)
    return jit_rows(forward, mesh, model=model)


def jit_rows(function: Any, mesh: Mesh, *, model: nn.Module, arguments: int = 1) -> Any:
    """A function of variables and batches compiled over `mesh`, rows sharded in and out.

    Args:
      function: of variables, so many arrays of rows, and the keyword `model`.
      mesh: the devices.
      model: the network.
      arguments: arrays of rows that the function takes.
    """
    replicated, rows = replicated_sharding(mesh), batch_sharding(mesh)
    sharded = jax.shard_map(
        partial(function, model=model.on(platform_of(mesh))),
        mesh=mesh,
        in_specs=(P(), *[P(ROW_AXES)] * arguments),
        out_specs=P(ROW_AXES),
        check_vma=False,
    )
    return jax.jit(
        sharded,
        in_shardings=(replicated, *[rows] * arguments),
        out_shardings=rows,
        compiler_options=compiler_options(platform_of(mesh)),
    )
