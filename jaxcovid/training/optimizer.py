"""Adam as in the paper, with a schedule, decoupled weight decay and accumulation as options."""

import jax
import optax

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


def make_optimizer(
    schedule: optax.Schedule, *, weight_decay: float, accumulate_steps: int
) -> optax.GradientTransformation:
    """Adam, decoupled weight decay on kernels only, one update every `accumulate_steps` steps.

    Raises:
      ValueError: a negative weight decay or fewer than one accumulated step.
    """
    if weight_decay < 0:
        raise ValueError(f"optimizer.weight_decay is {weight_decay}; it must be 0 or more")
    if accumulate_steps < 1:
        raise ValueError(f"optimizer.accumulate_steps is {accumulate_steps}; it must be 1 or more")
    optimizer = optax.adamw(
        schedule,
        weight_decay=weight_decay,
        mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    )
    if accumulate_steps == 1:
        return optimizer
    return optax.MultiSteps(optimizer, accumulate_steps).gradient_transformation()
