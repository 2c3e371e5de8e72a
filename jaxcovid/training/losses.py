"""Cross-entropy over independent sigmoids, as in the paper, or over a softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

CLASS_WEIGHTS = ("none", "balanced")


def class_weights(counts: np.ndarray, *, kind: str) -> np.ndarray:
    """Loss weights float32 [2, outputs] of negative (row 0) and positive targets (row 1).

    Args:
      counts: training images, int [2, outputs]; see `labels.Task.class_counts`.
      kind: `none` (all 1) or `balanced` (n / (2 n_class): positive and negative images weigh the
        same).

    Raises:
      ValueError: `kind` is neither, or `balanced` meets an output without positive or without
        negative images.
    """
    if kind not in CLASS_WEIGHTS:
        raise ValueError(f"class_weights is {kind!r}; use one of {', '.join(CLASS_WEIGHTS)}")
    if kind == "none":
        return np.ones(counts.shape, np.float32)
    if not counts.all():
        raise ValueError(
            "class_weights=balanced needs positive and negative images of every output, got "
            f"{counts[1].tolist()} positive and {counts[0].tolist()} negative"
        )
    return (counts.sum(0) / (2 * counts)).astype(np.float32)


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
