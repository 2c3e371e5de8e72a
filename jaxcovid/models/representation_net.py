"""Networks that learn a representation from images without labels; what is kept is the backbone.

`ContrastiveNet` embeds two views of each image, `DistillationNet` predicts the features of frozen
networks. What they learn it with, the projector, is left behind.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.models.deep_cxr_net import FrozenPart
from jaxcovid.models.layers import AxisName
from jaxcovid.models.normalization import BatchNorm

_MOST_BATCHES = 100  # over which the running moments of a teacher's features reach
_EPSILON = 1e-6


class RepresentationNet(DeepCTNet):
    """The backbone of a `DeepCTNet` and a projector; it has no attention and no classifier."""

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last map, averaged, float32 [b, c], of images as `DeepCTNet` takes them."""
        if self.is_initializing():
            self.all_logits(image, train=train)
        return average(self.features(image, train=train))

    def attend(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """The map itself: attention is learned with a classifier."""
        del train
        return features

    @property
    def classifies(self) -> bool:
        """False: see `DeepCTNet`."""
        return False

    @property
    def has_gradcam(self) -> bool:
        """False: there is no classifier, whose logit a heatmap explains."""
        return False


def average(features: jax.Array) -> jax.Array:
    """The mean of a map [b, h, w, c] over its places, float32 [b, c]."""
    return features.astype(jnp.float32).mean((1, 2))


class ContrastiveNet(RepresentationNet):
    """Embeds two views of each image, see `representation_losses.vicreg`.

    Attributes:
      width: of the embedding, and of the two layers before it.
    """

    width: int = 1024

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"contrastive.width is {self.width}; it must be 1 or more")
        super().__post_init__()

    def setup(self) -> None:
        super().setup()
        self.projector = Expander(self.width, self.axis_name)

    def all_logits(self, image: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """`embeddings` float32 [b, 2, width] of two views of each image float32 [b, 2, h, w, 1]."""
        *rows, height, width, channels = image.shape  # at initialisation one view: [1, h, w, 1]
        views = image.reshape(-1, height, width, channels)
        embeddings = self.projector(average(self.features(views, train=train)), train=train)
        return {"embeddings": embeddings.reshape(*rows, -1)}


class Expander(nn.Module):
    """Three layers as those of VICReg (Bardes et al., arXiv:2105.04906), narrower.

    Attributes:
      width: of each.
      axis_name: see `DeepCTNet`.
    """

    width: int
    axis_name: AxisName = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Embeddings float32 [b, width] of features float32 [b, c]."""
        x = x.reshape(len(x), 1, 1, -1)  # the normalisation takes maps
        for i in (1, 2):
            x = nn.Dense(self.width, use_bias=False, name=f"layer{i}")(x)
            x = nn.relu(BatchNorm(self.axis_name, name=f"norm{i}")(x, train=train))
        return nn.Dense(self.width, name="layer3")(x).reshape(len(x), -1)


@dataclass(frozen=True)
class Teacher(FrozenPart):
    """A frozen network whose backbone is a teacher.

    Attributes:
      scale: what the student's image is multiplied with to be as the teacher's were; None gives
        each image a mean of 0 and a deviation of 1.
      offset: what is then added.
    """

    scale: float | None = 1.0
    offset: float = 0.0

    def features(self, variables: Mapping[str, Any], image: jax.Array) -> jax.Array:
        """The last map of the backbone [b, h / 32, w / 32, c] of the student's images."""
        if self.scale is None:
            axes = (1, 2, 3)
            image = image - image.mean(axes, keepdims=True)
            image = image / jnp.maximum(image.std(axes, keepdims=True), _EPSILON)
        else:
            image = self.scale * image + self.offset
        return self.model.apply(variables, image, method="features")

    def features_shape(self, image: jax.Array) -> tuple[int, ...]:
        """The shape of `features`, which does not depend on the weights."""
        init = partial(self.model.init_with_output, method="features")
        return jax.eval_shape(init, jax.random.key(0), image)[0].shape


class DistillationNet(RepresentationNet):
    """Predicts the features of its teachers, see `representation_losses.distillation`.

    Of each teacher there are two targets: the average of its last map, which a classifier reads,
    and the map itself, as a lesion is in a few places of it. The maps of all backbones have one
    size if that of the images divides by 32; where they differ there is no target of the map. The
    projector has a linear layer for each target: what a classifier of the teacher's features can
    say, one of the student's then can.

    Attributes:
      teachers: the frozen networks; their variables are the collection `frozen`, by name.
    """

    teachers: tuple[Teacher, ...] = ()

    def setup(self) -> None:
        super().setup()
        self.standardizer, self.projector = Standardizer(), LinearProjector()

    def on(self, platform: str) -> "DistillationNet":
        """See `DeepCTNet.on`; its teachers too."""
        teachers = tuple(
            Teacher(each.name, each.model.on(platform), each.scale, each.offset)
            for each in self.teachers
        )
        return self.clone(platform=platform, teachers=teachers)

    def all_logits(self, image: jax.Array, *, train: bool = False) -> dict[str, Any]:
        """What is predicted, `students`, and what is to be, `teachers`, by the target's name.

        Both float32 [b, c] or [b, h / 32, w / 32, c], the latter standardised.
        """
        features = self.features(image, train=train)
        targets = self.standardizer(self.teach(image, features.shape[1:3]), train=train)
        widths = {name: target.shape[-1] for name, target in targets.items()}
        return {"students": self.projector(features, widths), "teachers": targets}

    def teach(self, image: jax.Array, places: tuple[int, ...]) -> dict[str, jax.Array]:
        """The targets by name, float32, before they are standardised.

        Args:
          image: see a call.
          places: height and width of the student's map.
        """
        targets = {}
        for teacher in self.teachers:
            if self.is_initializing():
                features = jnp.zeros(teacher.features_shape(image))
            else:
                features = teacher.features(self.get_variable("frozen", teacher.name), image)
            features = jax.lax.stop_gradient(features.astype(jnp.float32))
            targets[f"{teacher.name}_average"] = average(features)
            if features.shape[1:3] == places:
                targets[f"{teacher.name}_map"] = features
        return targets


class LinearProjector(nn.Module):
    """A linear layer for each target; of one whose name ends with `average` it reads averages."""

    @nn.compact
    def __call__(self, features: jax.Array, widths: Mapping[str, int]) -> dict[str, jax.Array]:
        """Predictions float32 by the name of the target, of a map [b, h, w, c]."""
        features = features.astype(jnp.float32)
        return {
            name: nn.Dense(width, name=name)(
                average(features) if name.endswith("average") else features
            )
            for name, width in widths.items()
        }


class Standardizer(nn.Module):
    """Gives each target a mean of 0 in each feature, and over all features a variance of 1.

    One scale serves all features of a target, so that those which vary little, often noise, do not
    count as much as the others, and so that targets count the same. It is the standardisation of
    PHI-S (Ranzinger et al., arXiv:2410.01680) but for the rotation that precedes it there: squared
    errors do not change with it, and the linear layer would learn it.

    The running moments are those of the batches before this one, averaged; there are none at the
    first. As an update is linear in the batch, its mean over devices is that of the whole batch.
    """

    @nn.compact
    def __call__(self, targets: Mapping[str, jax.Array], *, train: bool) -> dict[str, jax.Array]:
        """The targets [b, ..., c], standardised; in training the moments are updated."""
        batches = self.variable("batch_stats", "batches", jnp.zeros, (), jnp.float32)
        standardised = {}
        for name, x in targets.items():
            mean = self.variable("batch_stats", f"{name}_mean", jnp.zeros, x.shape[-1:])
            square = self.variable("batch_stats", f"{name}_square", jnp.ones, ())
            variance = square.value - jnp.square(mean.value).mean()
            axes = tuple(range(x.ndim - 1))
            centred = x - jnp.expand_dims(mean.value, axes)
            standardised[name] = centred * jax.lax.rsqrt(jnp.maximum(variance, _EPSILON))
            if train and not self.is_initializing():
                share = 1 / jnp.minimum(batches.value + 1, _MOST_BATCHES)
                mean.value += share * (x.mean(axes) - mean.value)
                square.value += share * (jnp.square(x).mean() - square.value)
        if train and not self.is_initializing():
            batches.value += 1
        return standardised
