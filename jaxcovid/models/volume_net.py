"""COVNet, of Li et al. (Radiology 2020, doi:10.1148/radiol.2020200905): one answer for a volume.

The paper that this project follows compares itself with it (reference [44], Table III).
"""

import jax
import jax.numpy as jnp

from jaxcovid.models.deep_ct_net import DeepCTNet


class VolumeNet(DeepCTNet):
    """One backbone for all slices of a volume; of each mean feature the largest of all slices.

    Maps are normalised before the means: the means of a few volumes are too few numbers for that.

    Raises:
      ValueError: an attention or the head `flatten`, as no map is left to attend to.
    """

    def __post_init__(self) -> None:
        if (self.attention, self.head) != ("none", "gap"):
            raise ValueError(
                "network=volume_net reads means, not maps: use --config.model.attention=none "
                "--config.model.head=gap"
            )
        super().__post_init__()

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The largest means over the slices, [b, 1, 1, c], of volumes [b, h, w, slices]."""
        batch, height, width, slices = image.shape
        rows = jnp.moveaxis(image, -1, 1).reshape(batch * slices, height, width, 1)
        maps = self.norm(super().features(rows, train=train), train=train)
        means = maps.astype(jnp.float32).mean((1, 2))
        return means.reshape(batch, slices, 1, 1, -1).max(1)

    def vector(self, attended: jax.Array, *, train: bool = False) -> jax.Array:
        """What the classifier reads, float32 [b, c], of what `features` gives."""
        return attended[:, 0, 0]

    @property
    def has_gradcam(self) -> bool:
        """False: its maps are of single slices."""
        return False
