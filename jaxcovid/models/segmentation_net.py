"""Deep-CT-Net with the decoder that the paper announces (section 3.3): where the lesion is."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxcovid.data.structures import STRUCTURES
from jaxcovid.models.decoder import Decoder
from jaxcovid.models.deep_ct_net import DeepCTNet

_LEAST_SHARE = 1e-6  # of the lungs, so that its logit is finite


class SegmentationNet(DeepCTNet):
    """Segments lungs and lesion in a chest CT slice or X-ray; may screen it as well.

    What it says of an image is, if it is `joint`, the classifier's logits as those of `DeepCTNet`.
    Without, there is no classifier: the one output is the share of the lungs that is involved.

    Attributes:
      joint: it has a classifier too.
    """

    joint: bool = False

    def __post_init__(self) -> None:
        if not self.joint and (self.outputs, self.exclusive) != (1, False):
            raise ValueError("objective=segmentation has one output: use --config.task=binary")
        super().__post_init__()

    def setup(self) -> None:
        super().setup()
        shared = {"dtype": jnp.dtype(self.dtype), "axis_name": self.axis_name}
        self.decoder = Decoder(len(STRUCTURES), **shared)

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits float32 [b, outputs]; see `DeepCTNet`."""
        if self.is_initializing():
            self.segment(image)
        if self.joint:
            return super().__call__(image, train=train)
        return self.scores(self.all_logits(image, train=train))

    def segment(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits float32 [b, h, w, 2] of lungs and lesion, of images as `DeepCTNet` takes them."""
        return self.all_logits(image, train=train)["masks"]

    def all_logits(self, image: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """`masks`, see `segment`, and if it is joint `classes`: float32 [b, outputs]."""
        maps = self.maps(image, train=train)
        attended = self.attend(maps[-1], train=train)
        logits = {"masks": self.decoder(image, maps, attended, train=train)}
        if self.joint:
            logits["classes"] = self.classify(attended, image, train=train)
        return logits

    def scores(self, logits: Mapping[str, jax.Array]) -> jax.Array:
        """See `DeepCTNet`."""
        return logits["classes"] if self.joint else involvement_logit(logits["masks"])

    @property
    def classifies(self) -> bool:
        """See `DeepCTNet`."""
        return self.joint

    @property
    def has_gradcam(self) -> bool:
        """True if it has a classifier, whose logit a heatmap explains."""
        return self.joint


def involvement_logit(logits: jax.Array) -> jax.Array:
    """The share of the lungs that the lesion covers, as a logit: float32 [b, 1].

    Areas are expected ones, the sums of probabilities: a share that is not quite 0 still ranks. A
    lesion that reaches beyond the lungs counts as lung, as consolidated lung often is left out.

    Args:
      logits: of lungs and lesion, float32 [b, h, w, 2].
    """
    lungs, lesion = jnp.moveaxis(jax.nn.sigmoid(logits), -1, 0)
    lesion_area, area = lesion.sum((1, 2)), jnp.maximum(lungs, lesion).sum((1, 2))
    share = jnp.clip(lesion_area / jnp.maximum(area, 1.0), _LEAST_SHARE, 1 - _LEAST_SHARE)
    return jnp.log(share / (1 - share))[:, None]
