"""What representations are learned by: VICReg of two views, and the features of teachers."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

# The weights of VICReg; variances are averaged over the views, as its authors' code does.
_INVARIANCE, _VARIANCE, _COVARIANCE = 25.0, 25.0, 1.0
_EPSILON = 1e-4


def vicreg(
    embeddings: jax.Array, *, axis_name: str | tuple[str, ...] | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """VICReg (Bardes et al., arXiv:2105.04906): two views agree, and no two features say the same.

    It contrasts features, not images (Garrido et al., arXiv:2206.02574, who show how close both
    are). It has no negatives, which of neighbouring slices of a patient would be false ones, and
    SimCLR needs thousands of them; and no second network, as BYOL has.

    Args:
      embeddings: float32 [b, 2, d], b of 2 or more.
      axis_name: mesh axes over whose devices the rows are gathered, so that the result does not
        depend on how many there are; None takes these rows alone.

    Returns:
      The loss, and it and its terms before they are weighted: `invariance`, the mean squared
      difference of the views; `variance`, how much the deviations of features lack to 1;
      `covariance`, the squares of the covariances between features, a sum over one of the two.
    """
    if axis_name is not None:
        embeddings = jax.lax.all_gather(embeddings, axis_name, tiled=True)
    rows, _, width = embeddings.shape
    centred = embeddings - embeddings.mean(0, keepdims=True)
    covariances = jnp.einsum("bvc,bvd->vcd", centred, centred) / (rows - 1)
    variances = jnp.diagonal(covariances, axis1=1, axis2=2)
    others = covariances * (1 - jnp.eye(width))[jnp.newaxis]
    terms = {
        "invariance": jnp.square(embeddings[:, 0] - embeddings[:, 1]).mean(),
        "variance": jax.nn.relu(1 - jnp.sqrt(variances + _EPSILON)).mean(),
        "covariance": jnp.square(others).sum() / width,
    }
    loss = (
        _INVARIANCE * terms["invariance"]
        + _VARIANCE * terms["variance"]
        + _COVARIANCE * terms["covariance"]
    )
    return loss, {"loss": loss, **terms}


def distillation_errors(
    students: Mapping[str, jax.Array], teachers: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """The mean squared error of each target and image, float32 [b], by the target's name.

    As targets have a variance of 1, its mean over images is the share of the teacher's variance
    that the student does not explain.

    Args:
      students: predictions, float32 [b, ..., c], see `DistillationNet.all_logits`.
      teachers: the targets, of the same names and shapes.
    """
    return {
        name: jnp.square(students[name] - target).mean(tuple(range(1, target.ndim)))
        for name, target in teachers.items()
    }


def distillation(
    students: Mapping[str, jax.Array], teachers: Mapping[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The mean over targets of their `distillation_errors`, as AM-RADIO learns from several.

    AM-RADIO (Ranzinger et al., arXiv:2312.06709) takes both targets too, the summary and the map.

    Returns:
      The loss, and it and the error of each target by its name.
    """
    errors = {name: x.mean() for name, x in distillation_errors(students, teachers).items()}
    loss = jnp.stack([*errors.values()]).mean()
    return loss, {"loss": loss, **errors}
