"""Cross-entropy over independent sigmoids, as in the paper, or over a softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcovid.data.structures import UNKNOWN

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


def deviation_loss(
    scores: jax.Array, targets: jax.Array, weights: jax.Array, *, margin: float
) -> jax.Array:
    """Draws scores of negative images to 0 and those of positive ones above a margin.

    The loss of Pang et al., arXiv:1911.08623, whose reference is a standard normal distribution.
    Weighted mean over images and outputs; one whose target is not known counts as 0, see
    `cross_entropy`.

    Args:
      scores: float32 [b, outputs].
      targets: likewise, 1, 0 or below 0 for unknown.
      weights: float32 [2, outputs], see `class_weights`.
      margin: least score of a positive image.
    """
    below, away = jnp.maximum(margin - scores, 0.0), jnp.abs(scores)
    losses = jnp.where(targets == 1, weights[1:] * below, weights[:1] * away)
    return jnp.where(targets < 0, 0.0, losses).mean()


def segmentation_losses(
    logits: jax.Array, masks: jax.Array, *, axis_name: str | tuple[str, ...] | None = None
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy plus Dice loss (Milletari et al., arXiv:1606.04797), mean over structures.

    Both are of all known pixels of the batch at once: the Dice of a small lesion, or of none, in a
    single image would be noise. The Dice loss takes care of lesions that are few pixels beside the
    rest. A structure that is nowhere known in the batch is left out.

    Args:
      logits: [b, h, w, structures].
      masks: uint8 of the same shape: 1, 0 or `structures.UNKNOWN`.
      axis_name: mesh axes over whose devices the sums are taken, so that the result does not depend
        on how many there are; None sums over these rows alone.

    Returns:
      The loss, and the (soft) Dice of each structure, float32 [structures], NaN if not known.
    """
    known, inside = masks != UNKNOWN, (masks == 1).astype(jnp.float32)
    probabilities = jax.nn.sigmoid(logits)
    parts = jnp.stack(
        [
            jnp.where(known, part, 0).sum((0, 1, 2))
            for part in (
                jnp.ones_like(inside),
                optax.sigmoid_binary_cross_entropy(logits, inside),
                probabilities * inside,
                probabilities + inside,
            )
        ]
    )
    if axis_name is not None:
        parts = jax.lax.psum(parts, axis_name)
    pixels, entropy, both, either = parts
    dice = (2 * both + 1) / (either + 1)
    losses = jnp.where(pixels > 0, entropy / jnp.maximum(pixels, 1) + 1 - dice, 0.0)
    loss = losses.sum() / jnp.maximum((pixels > 0).sum(), 1)
    return loss, jnp.where(pixels > 0, dice, jnp.nan)
