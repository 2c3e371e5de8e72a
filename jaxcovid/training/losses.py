"""Binary cross-entropy over independent sigmoids, and the targets it compares with."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

CLASS_WEIGHTS = ("none", "balanced")


def output_names(class_names: Sequence[str], *, outputs: str, positive_class: str) -> list[str]:
    """The name of each logit, the positive class first.

    Args:
      class_names: classes of the data set, in label order.
      outputs: `binary` or `three_way`.
      positive_class: the class that the screening looks for.

    Raises:
      ValueError: the positive class is not among them, or `three_way` meets another number.
    """
    if positive_class not in class_names:
        raise ValueError(
            f"positive_class {positive_class!r} is not a class of the data set "
            f"({', '.join(class_names)}); set --config.positive_class"
        )
    if outputs == "binary":
        return [positive_class]
    if len(class_names) != 3:
        raise ValueError(
            f"model.outputs three_way needs 3 classes, the data set has {len(class_names)} "
            f"({', '.join(class_names)}); use --config.model.outputs=binary"
        )
    return [positive_class, *(name for name in class_names if name != positive_class)]


def target_table(class_names: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """float32 [classes, outputs]: row `label` holds the targets of a record with that label."""
    return np.array([[c == name for name in names] for c in class_names], np.float32)


def class_weights(counts: Sequence[int], table: np.ndarray, *, kind: str) -> np.ndarray:
    """Loss weights float32 [2, outputs] of negative (row 0) and positive targets (row 1).

    Args:
      counts: training images of each class, in label order.
      table: see `target_table`.
      kind: `none` (all 1) or `balanced` (n / (2 n_side), so that both sides weigh the same).

    Raises:
      ValueError: `kind` is neither, or `balanced` meets a side without images.
    """
    if kind not in CLASS_WEIGHTS:
        raise ValueError(f"class_weights is {kind!r}; use one of {', '.join(CLASS_WEIGHTS)}")
    if kind == "none":
        return np.ones((2, table.shape[1]), np.float32)
    positive = np.asarray(counts) @ table
    sides = np.stack([np.sum(counts) - positive, positive])
    if not sides.all():
        raise ValueError(f"class_weights=balanced needs images of every class, got {counts}")
    return (np.sum(counts) / (2 * sides)).astype(np.float32)


def binary_cross_entropy(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted mean over images and outputs.

    Args:
      logits: float32 [b, outputs].
      targets: float32 [b, outputs] in {0, 1}.
      weights: float32 [2, outputs], see `class_weights`.
    """
    losses = optax.sigmoid_binary_cross_entropy(logits, targets)
    return ((weights[:1] * (1 - targets) + weights[1:] * targets) * losses).mean()
