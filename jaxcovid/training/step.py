"""The train step: a pure function of a state and a batch.

What is computed from images runs under `shard_map`: each device sees its own rows of the batch, and
everything that devices exchange is explicit.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import optax
from flax import traverse_util
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxcovid.runtime.sharding import (
    BATCH_AXIS,
    SLICE_AXIS,
    check_groups,
    in_groups,
    platform_of,
)
from jaxcovid.training.exchange import AXES, mean_gradients, noted_calls
from jaxcovid.training.freezing import Freezing
from jaxcovid.training.objective import Metrics, over_known, total_loss
from jaxcovid.training.state import TrainState

BATCH_NORMS = ("global", "per_device", "groups:N")
# image: float32 [b, h, w, 1], or two views of each [b, 2, h, w, 1]; target: float32 [b, outputs],
# below 0 if unknown; with a decoder masks: uint8 [b, h, w, 2], see `data.masks`
Batch = dict[str, jax.Array]


def gradients(
    variables: Mapping[str, Any], batch: Batch, *, model: nn.Module, **options: Any
) -> tuple[Any, Any, Metrics]:
    """Gradients of the loss over these rows, the new running moments, and the rows' metrics.

    The options and metrics are those of `objective.total_loss`.
    """

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        logits, updates = model.apply(
            {**variables, "params": params},
            batch["image"],
            train=True,
            mutable=["batch_stats", "intermediates"],
            method="all_logits",
        )
        loss, metrics = total_loss(logits, batch, model=model, **options)
        return loss, (metrics, updates)

    (_, (metrics, updates)), grads = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
    sown = updates.get("intermediates", {})
    for path, values in traverse_util.flatten_dict(sown).items():
        metrics[path[-1]] = values[0]
    return grads, updates.get("batch_stats", {}), metrics


def shared_gradients(
    variables: Mapping[str, Any], batch: Batch, *, model: nn.Module, **kwargs: Any
) -> tuple[Any, Any, Metrics]:
    """`gradients` of a global batch from each device's rows; runs under `shard_map`."""
    with noted_calls() as calls:
        own, *others = gradients(variables, batch, model=model, **kwargs)
    if jax.lax.axis_size(AXES) == 1:
        return own, *others
    shared, others = mean_gradients(own, others, calls)
    return shared, *others


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    weights: jax.Array,
    mesh: Mesh,
    batch_norm: str = "global",
    segmentation_weight: float = 1.0,
    freezing: Freezing | None = None,
) -> tuple[TrainState, Metrics]:
    """One optimizer step on a global batch that is sharded over the mesh.

    Args:
      state: the current state.
      batch: see `Batch`.
      model: see `models.build`.
      optimizer: see `optimizer.make_optimizer`.
      weights: float32 [2, outputs], see `losses.class_weights`.
      mesh: see `sharding.make_mesh`.
      batch_norm: `global` normalises with the moments of the whole batch; `per_device` with
        those of each device's rows, and averages the running moments; `groups:N` with those of N
        neighbouring devices, such as the chips of a host.
      segmentation_weight: see `objective.total_loss`.
      freezing: what is not trained at first, as the optimizer has it.

    Returns:
      The next state and scalar metrics.
    """
    model = model.on(platform_of(mesh))
    over_mesh = partial(
        _gradients_over_mesh,
        mesh=mesh,
        batch_norm=batch_norm,
        weights=weights,
        segmentation_weight=segmentation_weight,
    )
    if freezing is None:
        grads, batch_stats, metrics = over_mesh(model)(state.variables, batch)
    else:
        grads, batch_stats, metrics = jax.lax.cond(
            state.step < freezing.steps,
            over_mesh(model.clone(frozen_layers=freezing.layers)),
            over_mesh(model),
            state.variables,
            batch,
        )
    metrics = over_known(metrics)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics["gradient_norm"] = optax.tree.norm(ravel_pytree(grads)[0])
    params = optax.apply_updates(state.params, updates)
    state = state.replace(
        step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state
    )
    return state, metrics


def _gradients_over_mesh(
    model: nn.Module, *, mesh: Mesh, batch_norm: str, **options: Any
) -> Callable[..., tuple[Any, Any, Metrics]]:
    """(variables, batch) -> `gradients` of a global batch, each device computing its own rows."""
    slices, devices = mesh.devices.shape
    together = devices_together(batch_norm, mesh)
    if together > 1:
        across_slices = together > devices
        model = model.clone(axis_name=(SLICE_AXIS, BATCH_AXIS) if across_slices else BATCH_AXIS)
    return jax.shard_map(
        partial(
            shared_gradients,
            model=model,
            axis_name=AXES if mesh.size > 1 else None,
            **options,
        ),
        mesh=in_groups(mesh, (slices, -1, min(together, devices)), AXES),
        in_specs=(P(), P(AXES)),
        out_specs=P(),
        check_vma=False,
    )


def devices_together(batch_norm: str, mesh: Mesh) -> int:
    """How many devices of a mesh normalise together, by the option `batch_norm`.

    Raises:
      ValueError: there is no such option, or the devices do not divide into its groups.
    """
    if batch_norm == "global":
        return mesh.size
    if batch_norm == "per_device":
        return 1
    word, _, size = batch_norm.partition(":")
    if word != "groups" or not size.isdigit():
        raise ValueError(f"batch_norm is {batch_norm!r}; use one of {', '.join(BATCH_NORMS)}")
    check_groups("N of batch_norm=groups:N", int(size), mesh)
    return int(size)
