"""Cross-entropy over independent sigmoids, as in the paper, or over a softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

CLASS_WEIGHTS = ("none", "balanced")


def class_weights(sides: np.ndarray, *, kind: str) -> np.ndarray:
    """Loss weights float32 [2, outputs] of negative (row 0) and positive targets (row 1).

    Args:
      sides: training images of each side, see `targets.count_sides`.
      kind: `none` (all 1) or `balanced` (n / (2 n_side), so that both sides weigh the same).

    Raises:
      ValueError: `kind` is neither, or `balanced` meets a side without images.
    """
    if kind not in CLASS_WEIGHTS:
        raise ValueError(f"class_weights is {kind!r}; use one of {', '.join(CLASS_WEIGHTS)}")
    if kind == "none":
        return np.ones(sides.shape, np.float32)
    if not sides.all():
        raise ValueError(
            "class_weights=balanced needs images on both sides of every output, got "
            f"{sides[1].tolist()} positive and {sides[0].tolist()} negative"
        )
    return (sides.sum(0) / (2 * sides)).astype(np.float32)


def cross_entropy(
    logits: jax.Array, targets: jax.Array, weights: jax.Array, *, exclusive: bool
) -> jax.Array:
    """Weighted mean over images (and outputs, if independent).

    A target below 0 is not known and counts as a loss of 0: the mean is over all, so that the mean
    over devices is the mean over the batch.

    Args:
      logits: float32 [b, outputs].
      targets: float32 [b, outputs], 1, 0 or below 0 for unknown.
      weights: float32 [2, outputs], see `class_weights`.
      exclusive: the outputs are one softmax; else independent sigmoids.
    """
    if exclusive:
        return -(weights[1:] * targets * jax.nn.log_softmax(logits)).sum(1).mean()
    losses = optax.sigmoid_binary_cross_entropy(logits, targets)
    weighted = (weights[:1] * (1 - targets) + weights[1:] * targets) * losses
    return jnp.where(targets < 0, 0.0, weighted).mean()
