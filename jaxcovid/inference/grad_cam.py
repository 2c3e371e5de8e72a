"""Grad-CAM heatmaps (Selvaraju et al., ICCV 2017; the paper's Figs. 6 and 9)."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def grad_cam(
    weights: Mapping[str, Any], image: jax.Array, *, model: nn.Module, output: int = 0
) -> jax.Array:
    """Where a logit comes from: positive part of the gradient-weighted sum of a layer's maps.

    The layer is the third dense block after normalisation and ReLU, at a sixteenth of the image's
    size. The last one, at half of that, sees so much around each of its points that its maps do not
    show where a lesion is: docs/evaluation_and_report.md has the figures. Other backbones show the
    last map of that size, see `layers.show_map`.

    Args:
      weights: the network's variables.
      image: float32 [b, h, w, 1], preprocessed.
      model: a network with a backbone, see `DeepCTNet.has_gradcam`.
      output: index of the logit.

    Returns:
      float32 [b, h / 16, w / 16], each image's maximum 1; all 0 where nothing speaks for the logit.
    """
    return logits_and_grad_cams(weights, image, model=model, outputs=[output])[1][:, 0]


def logits_and_grad_cams(
    weights: Mapping[str, Any], image: jax.Array, *, model: nn.Module, outputs: Sequence[int]
) -> tuple[dict[str, jax.Array], jax.Array]:
    """All logits, and `grad_cam` of some of the classes, in one forward pass.

    Args: see `grad_cam`.

    Returns:
      Logits as `DeepCTNet.all_logits` gives them, heatmaps float32 [b, outputs, h / 16, w / 16].
    """
    model = model.clone(form="plain")  # the form that can show its maps

    def forward(change: Any) -> tuple[jax.Array, Any]:
        variables = {**weights, "perturbations": change} if change else weights
        logits, shown = model.apply(variables, image, mutable=["maps"], method="all_logits")
        return model.scores(logits), (logits, shown["maps"])

    shapes = jax.eval_shape(lambda: forward({})[1][1])
    unchanged = jax.tree.map(
        lambda sown: jnp.zeros(sown[0].shape, sown[0].dtype),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    classes, backward, (logits, maps) = jax.vjp(forward, unchanged, has_aux=True)
    (layer,) = jax.tree.leaves(maps)
    cams = []
    for output in outputs:
        one = jnp.broadcast_to(jnp.arange(classes.shape[1])[None] == output, classes.shape)
        (gradient,) = jax.tree.leaves(backward(one.astype(classes.dtype)))
        importance = gradient.mean((1, 2), keepdims=True)
        cam = nn.relu((importance * layer).astype(jnp.float32).sum(-1))
        peak = cam.max((1, 2), keepdims=True)
        cams.append(cam / jnp.where(peak > 0, peak, 1.0))
    return logits, jnp.stack(cams, axis=1)
