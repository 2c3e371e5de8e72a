"""CAAD, of Zhang et al., arXiv:2003.12338: a classifier beside a score of anomaly.

The paper that this project follows compares itself with it (reference [45], Table VI).
"""

from collections.abc import Mapping

import flax.linen as nn
import jax

from jaxcovid.models.deep_ct_net import DeepCTNet

# What images of the positive class should score at least; others score about 0. In standard
# deviations of a standard normal distribution, as in Pang et al., arXiv:1911.08623.
MARGIN = 5.0


class AnomalyNet(DeepCTNet):
    """A classifier and a second layer of its kind, which scores how far an image is from normal.

    The logit is the classifier's plus the score's distance from half of `MARGIN`: CAAD calls an
    image positive if either is high, which a curve over one threshold cannot follow.

    Raises:
      ValueError: the outputs are exclusive, as then none of them is the anomaly.
    """

    def __post_init__(self) -> None:
        if self.exclusive:
            raise ValueError("network=anomaly_net has independent outputs: --config.task=binary")
        super().__post_init__()

    def setup(self) -> None:
        super().setup()
        self.anomaly = nn.Dense(self.outputs, kernel_init=nn.initializers.normal(0.01))

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits float32 [b, outputs]; see `DeepCTNet`."""
        return self.scores(self.all_logits(image, train=train))

    def all_logits(self, image: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """`classes` and `anomaly`, float32 [b, outputs] each."""
        attended = self.attend(self.features(image, train=train), train=train)
        vector = self.vector(attended, train=train)
        return {"classes": self.classifier(vector), "anomaly": self.anomaly(vector)}

    def scores(self, logits: Mapping[str, jax.Array]) -> jax.Array:
        """See the class."""
        return logits["classes"] + logits["anomaly"] - MARGIN / 2
