"""Adam as in the paper, with a schedule, decoupled weight decay and accumulation as options."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxcovid.training.freezing import Freezing
from jaxcovid.training.layer_rates import scale_by_layer

SCHEDULES = ("constant", "one_cycle")


def make_schedule(*, learning_rate: float, schedule: str, updates: int) -> optax.Schedule:
    """Learning rate over `updates` optimizer updates.

    `constant` is the paper's; `one_cycle` (Smith & Topin, arXiv:1708.07120) rises over the first
    30 % to `learning_rate` and falls along a cosine to a ten-thousandth of its start.

    Raises:
      ValueError: an unknown schedule or a learning rate that is not positive.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"optimizer.schedule is {schedule!r}; use one of {', '.join(SCHEDULES)}")
    if not learning_rate > 0:
        raise ValueError(f"optimizer.learning_rate is {learning_rate}; it must be above 0")
    if schedule == "constant":
        return optax.constant_schedule(learning_rate)
    return optax.cosine_onecycle_schedule(max(updates, 2), learning_rate)


# What reads the features of backbone and attention.
_HEAD = ("classifier", "anomaly", "reduction", "fusion", "decoder", "projector")


_MULTIPLE = 256  # what the vector's length divides by, so that as many devices can share it


def _flattened(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, given all arrays as one vector, which ends with zeros.

    The same numbers, from a few kernels instead of several for each of 364 arrays: a start from a
    filled compilation cache took 11 s instead of 18. `optax.flatten` does not pad.
    """

    def padded(vector: jax.Array) -> jax.Array:
        return jnp.pad(vector, (0, -vector.size % _MULTIPLE))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        vector, unravel = ravel_pytree(updates)
        moved, state = inner.update(padded(vector), state)
        return unravel(moved[: vector.size]), state

    return optax.GradientTransformation(
        lambda params: inner.init(padded(ravel_pytree(params)[0])), update
    )


def make_optimizer(
    schedule: optax.Schedule,
    *,
    weight_decay: float,
    head_lr_multiplier: float,
    accumulate_steps: int,
    total_steps: int | None = None,
    layer_decay: float = 1.0,
    freezing: Freezing | None = None,
) -> optax.GradientTransformation:
    """Adam, decoupled weight decay on kernels only, one update every `accumulate_steps` steps.

    Adam moves every weight by about the learning rate, so one step moves a logit of the flattened
    head by about the rate times the sum of its 65,536 inputs: 1e-3, right for the backbone from
    random initialisation, would move it by dozens. Hence a multiplier for the head's rate.

    Args:
      schedule: learning rate by update.
      weight_decay: share of a kernel that an update takes away, times the learning rate.
      head_lr_multiplier: of the learning rate, for the fully connected layers, the decoder and
        the projector of a representation.
      accumulate_steps: batches whose mean gradient makes one update.
      total_steps: of the training; where they do not divide by `accumulate_steps`, the last update
        is made of the batches that are left. None: without an end.
      layer_decay: see `layer_rates`; 1 gives all layers the same rate.
      freezing: what is not trained at first; None trains everything.

    Raises:
      ValueError: an option out of its range.
    """
    _check(head_lr_multiplier, weight_decay, accumulate_steps, total_steps)

    adam: tuple[optax.GradientTransformation, ...] = (
        _flattened(optax.scale_by_adam()),
        optax.add_decayed_weights(
            weight_decay, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
        ),
    )
    if freezing:
        adam = (_with_late_start(optax.chain(*adam), freezing),)
    optimizer = optax.chain(
        *adam,
        optax.scale_by_learning_rate(schedule),
        optax.masked(optax.scale(head_lr_multiplier), partial(_head, head_lr_multiplier)),
        *([scale_by_layer(layer_decay)] if layer_decay != 1 else []),
    )
    if accumulate_steps == 1:
        return optimizer
    whole, left = divmod(total_steps or 0, accumulate_steps)

    def steps_of(update: jax.Array) -> jax.Array:
        return jnp.where(update == whole, left, accumulate_steps)

    every = steps_of if left else accumulate_steps
    return optax.MultiSteps(optimizer, every).gradient_transformation()


def _head(multiplier: float, params: Mapping[str, Any]) -> dict[str, bool]:
    """True for the parts of a network that are its head; there must be one, to be multiplied."""
    if multiplier != 1 and not any(name in _HEAD for name in params):
        raise ValueError(
            f"optimizer.head_lr_multiplier matches no parameter: none of {', '.join(_HEAD)} is "
            f"among {', '.join(params)}"
        )
    return {name: name in _HEAD for name in params}


def _with_late_start(
    adam: optax.GradientTransformation, freezing: Freezing
) -> optax.GradientTransformation:
    """`adam`, twice: for what is trained from the start, and for what starts after freezing.

    The latter begins with moments and a count of its own: the bias correction of a count that had
    run on without gradients would make its first updates several times too large.
    """

    def labels(params: Mapping[str, Any]) -> dict[str, str]:
        return {name: "late" if name in freezing.layers else "early" for name in params}

    late = optax.conditionally_mask(adam, lambda update: update >= freezing.updates)
    return optax.partition({"early": adam, "late": late}, labels)


def _check(
    head_lr_multiplier: float, weight_decay: float, accumulate_steps: int, total_steps: int | None
) -> None:
    """Refuses options of `make_optimizer` that are out of range."""
    if not head_lr_multiplier > 0:
        raise ValueError(
            f"optimizer.head_lr_multiplier is {head_lr_multiplier}; it must be above 0"
        )
    if weight_decay < 0:
        raise ValueError(f"optimizer.weight_decay is {weight_decay}; it must be 0 or more")
    if accumulate_steps < 1:
        raise ValueError(f"optimizer.accumulate_steps is {accumulate_steps}; it must be 1 or more")
    if total_steps is not None and accumulate_steps > total_steps:
        raise ValueError(
            f"optimizer.accumulate_steps is {accumulate_steps}, but this training has only "
            f"{total_steps} steps, so that nothing would be trained; use 1 to {total_steps}, or "
            "more epochs"
        )
