"""What a training minimises: the loss of classes, of masks, of both, or of a representation."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcovid.data.structures import STRUCTURES
from jaxcovid.models.anomaly_net import MARGIN
from jaxcovid.training.losses import cross_entropy, deviation_loss, segmentation_losses
from jaxcovid.training.representation_losses import distillation, vicreg

Metrics = dict[str, jax.Array]  # scalars


def total_loss(
    logits: Mapping[str, Any],
    batch: Mapping[str, jax.Array],
    *,
    model: nn.Module,
    weights: jax.Array,
    segmentation_weight: float = 1.0,
    axis_name: str | tuple[str, ...] | None = None,
) -> tuple[jax.Array, Metrics]:
    """The loss of these rows and their metrics.

    `loss` among them is that of the classes, if there are any. `unknown` is the share of all
    targets, `first_unknown` that of the first output's, see `over_known`.

    Args:
      logits: `all_logits` of a network, whose names decide.
      batch: see `step.Batch`.
      model: the network.
      weights: float32 [2, outputs], see `losses.class_weights`.
      segmentation_weight: of the masks beside the classes.
      axis_name: axes over which the loss of masks or views is shared, see `segmentation_losses`.
    """
    if "embeddings" in logits:
        return vicreg(logits["embeddings"], axis_name=axis_name)
    if "students" in logits:
        return distillation(logits["students"], logits["teachers"])
    total, metrics = jnp.zeros(()), {}
    if "classes" in logits:
        classes, target = logits["classes"], batch["target"]
        total = cross_entropy(classes, target, weights, exclusive=model.exclusive)
        called, unknown = model.probabilities(model.scores(logits)) > 0.5, target < 0
        right = (called == (target > 0.5)) & ~unknown
        metrics = {
            "loss": total,
            "accuracy": right[:, 0].mean(),
            "unknown": unknown.mean(),
            "first_unknown": unknown[:, 0].mean(),
        }
    if "anomaly" in logits:
        anomaly = deviation_loss(logits["anomaly"], target, weights, margin=MARGIN)
        metrics["anomaly_loss"] = anomaly
        total = total + anomaly
    if "masks" in logits:
        loss, dice = segmentation_losses(logits["masks"], batch["masks"], axis_name=axis_name)
        total = total + segmentation_weight * loss if metrics else loss
        metrics["segmentation_loss" if metrics else "loss"] = loss
        metrics |= {f"dice_{name}": score for name, score in zip(STRUCTURES, dice, strict=True)}
    return total, metrics


def over_known(metrics: Metrics) -> Metrics:
    """`loss` and `accuracy` of a whole batch as means over its known targets alone.

    The shares are of the whole batch too: devices that know more count for more. Where all targets
    are known both stay bit for bit as they are. Of a batch whose first output is nowhere known the
    accuracy is NaN; a batch without any known target has a loss of 0.
    """
    metrics = dict(metrics)
    unknown, first_unknown = (metrics.pop(x, None) for x in ("unknown", "first_unknown"))
    for name, share, of_none in (
        ("loss", unknown, 0.0),
        ("anomaly_loss", unknown, 0.0),
        ("accuracy", first_unknown, jnp.nan),
    ):
        if share is not None and name in metrics:
            # Below one in a million it is what rounding leaves of none.
            known = 1 - share
            metrics[name] = jnp.where(known > 1e-6, metrics[name] / known, of_none)
    return metrics
