"""Deep-CXR-Net (paper, section 4.3): two frozen networks and a trained one, fused.

Part 1 recognises findings of chest X-rays, part 2 pneumonia of children; both were trained before
and are frozen here. Part 3 is trained: two fully connected layers read its features, reduced in
number, beside the likelihoods of the other two.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.models.layers import he_normal


@dataclass(frozen=True)
class FrozenPart:
    """A trained network that is used and not changed.

    Attributes:
      name: the key of its variables in the collection `frozen`.
      model: the network.
    """

    name: str
    model: DeepCTNet


class DeepCXRNet(DeepCTNet):
    """Classifier of one chest X-ray; returns logits.

    It is part 3, a Deep-CT-Net whose head also reads the likelihoods of the frozen parts. These
    run in inference mode, and no gradient passes through them. With six and two likelihoods, the
    other defaults and 256x256 images, 17,507,080 parameters are trained.

    Attributes:
      parts: the frozen ones; their variables are the collection `frozen`, by name. May be empty.
      part3: False joins nothing but the likelihoods of the frozen parts.
      reduced: number of features to which those of part 3 are reduced before the join, so that 8
        likelihoods are not lost among them; 0 joins all 65,536, as the paper has it.
      width: of the layer after the join.

    Raises:
      ValueError: an option is not one of those named, or all parts are switched off.
    """

    parts: tuple[FrozenPart, ...] = ()
    part3: bool = True
    reduced: int = 128
    width: int = 64

    def __post_init__(self) -> None:
        if self.reduced < 0 or self.width < 1:
            raise ValueError(
                f"fusion.reduced is {self.reduced} and fusion.width {self.width}; they must be 0 "
                "or more and 1 or more"
            )
        if not self.part3 and not self.parts:
            raise ValueError(
                "fusion.part3 is off and no other part is given; set --config.parts.part1.workdir "
                "or --config.parts.part2.workdir"
            )
        super().__post_init__()

    def setup(self) -> None:
        super().setup()
        if self.reduced:
            self.reduction = nn.Dense(self.reduced, kernel_init=he_normal)
        self.fusion = nn.Dense(self.width, kernel_init=he_normal)

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits float32 [b, outputs]; see `DeepCTNet`."""
        if self.part3:
            return super().__call__(image, train=train)
        return self.fuse(self.likelihoods(image))

    def on(self, platform: str) -> "DeepCXRNet":
        """See `DeepCTNet.on`; its frozen parts too."""
        parts = tuple(FrozenPart(part.name, part.model.on(platform)) for part in self.parts)
        return self.clone(platform=platform, parts=parts)

    @property
    def has_gradcam(self) -> bool:
        """True if part 3 is on: heatmaps are made of its maps."""
        return self.part3

    def likelihoods(self, image: jax.Array) -> jax.Array:
        """Probabilities of the frozen parts, float32 [b, sum of their outputs]."""
        if self.is_initializing():  # shapes of parameters do not depend on their weights
            outputs = sum(part.model.outputs for part in self.parts)
            return jnp.zeros((image.shape[0], outputs), jnp.float32)
        logits = [
            part.model.apply(self.get_variable("frozen", part.name), image, train=False)
            for part in self.parts
        ]
        probabilities = [
            part.model.probabilities(x) for part, x in zip(self.parts, logits, strict=True)
        ]
        return jax.lax.stop_gradient(jnp.concatenate(probabilities, -1))

    def classify(self, attended: jax.Array, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits float32 [b, outputs] of part 3's map after attention and of the image."""
        x = self.vector(attended, train=train)
        if self.reduced:
            x = nn.relu(self.reduction(x))
        if self.parts:
            x = jnp.concatenate([x, self.likelihoods(image)], -1)
        return self.fuse(x)

    def fuse(self, x: jax.Array) -> jax.Array:
        """Logits float32 [b, outputs] of the joined features and likelihoods, float32 [b, n]."""
        return self.classifier(nn.relu(self.fusion(x)))
