"""Deep-CT-Net (paper, section 4.2): DenseNet-121, pyramid attention, BN, flatten, FC.

Another backbone may take the place of DenseNet-121.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcovid.models.backbones import BACKBONES, make_backbone
from jaxcovid.models.fused.execution import CHUNK_BYTES
from jaxcovid.models.layers import AxisName, Maps
from jaxcovid.models.normalization import BatchNorm
from jaxcovid.models.pyramid_attention import PyramidAttention

ATTENTIONS = ("compact", "wide", "none")
HEADS = ("flatten", "gap")
DTYPES = ("float32", "bfloat16")
FORMS = ("plain", "fused")
FREEZABLE = ("backbone", "pyramid_attention")  # what is trained before; the rest is the head


class DeepCTNet(nn.Module):
    """Classifier of one chest CT slice, or one part of `DeepCXRNet`; returns logits.

    With the defaults and 256x256 images it has 9,175,048 parameters (9,306,122 with 3 outputs).

    Attributes:
      outputs: number of logits.
      exclusive: the outputs are one softmax; else independent sigmoids.
      backbone_name: one of `backbones.BACKBONES`; the option `model.backbone`.
      attention: `compact` (one-channel pyramid), `wide` or `none` (the backbone alone).
      head: `flatten` (the paper; fixed input size) or `gap` (global average; any input size).
      growth_rate: of densenet121: channels that each dense layer adds; 32 is DenseNet-121.
      depths: of densenet121: layers of each dense block; (6, 12, 24, 16) is DenseNet-121.
      dtype: `float32` or `bfloat16` for activations and products; parameters stay float32.
      axis_name: mesh axis over which batch normalisation is synchronised, inside `shard_map`; None
        normalises the rows of each device by themselves.
      form: of a DenseNet: `plain` (`densenet`) or `fused` (`fused.densenet`); one function of the
        same variables.
      platform: `cpu`, `gpu` or `tpu`: for which devices the fused form computes. Programs over a
        mesh take that of its devices, see `on`; the default is JAX's.
      chunk_bytes: see `fused.execution.Execution`.
      frozen_layers: of `FREEZABLE`, those that run in inference mode in training too, so that their
        running moments stay as they are, and that no gradient reaches.
      grouped_depthwise: of efficientnet_lite0, see `EfficientNetLite.grouped`.

    Raises:
      ValueError: an option is not one of those named.
    """

    outputs: int = 1
    exclusive: bool = False
    backbone_name: str = "densenet121"
    attention: str = "compact"
    head: str = "flatten"
    growth_rate: int = 32
    depths: tuple[int, ...] = (6, 12, 24, 16)
    dtype: str = "float32"
    axis_name: AxisName = None
    form: str = "fused"
    platform: str = dataclasses.field(default_factory=jax.default_backend)
    chunk_bytes: int = CHUNK_BYTES
    frozen_layers: tuple[str, ...] = ()
    grouped_depthwise: bool = False

    def __post_init__(self) -> None:
        for option, value, allowed in (
            ("backbone", self.backbone_name, BACKBONES),
            ("attention", self.attention, ATTENTIONS),
            ("head", self.head, HEADS),
            ("dtype", self.dtype, DTYPES),
            ("form", self.form, FORMS),
        ):
            if value not in allowed:
                raise ValueError(f"model.{option} is {value!r}; use one of {', '.join(allowed)}")
        super().__post_init__()

    def setup(self) -> None:
        dtype: Any = jnp.dtype(self.dtype)
        shared = {"dtype": dtype, "axis_name": self.axis_name}
        execution = {"platform": self.platform, "chunk_bytes": self.chunk_bytes}
        self.backbone = make_backbone(
            self.backbone_name,
            densenet={"growth_rate": self.growth_rate, "depths": self.depths},
            fused=execution if self.form == "fused" else None,
            grouped_depthwise=self.grouped_depthwise,
            **shared,
        )
        if self.attention != "none":
            self.pyramid_attention = PyramidAttention(wide=self.attention == "wide", **shared)
        self.norm = BatchNorm(self.axis_name)
        # The last product stays in float32: it is small, and a logit needs the digits.
        self.classifier = nn.Dense(self.outputs, kernel_init=nn.initializers.normal(0.01))

    def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits float32 [b, outputs] of images float32 [b, h, w, 1 or 3], mean 0 and std 1.

        One channel stands for three equal ones, as the paper's preprocessing makes them.
        """
        features = self.features(image, train=train)
        attended = self.attend(features, train=train)
        return self.classify(attended, image, train=train)

    def all_logits(self, image: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """What is trained: `classes`, the logits of a call, and of a `SegmentationNet` `masks`."""
        return {"classes": self(image, train=train)}

    def scores(self, logits: Mapping[str, jax.Array]) -> jax.Array:
        """What a call returns, float32 [b, outputs], of `all_logits`."""
        return logits["classes"]

    def features(self, image: jax.Array, *, train: bool = False) -> jax.Array:
        """The last map of the backbone [b, h / 32, w / 32, c]; c is 1024 of densenet121."""
        return self.maps(image, train=train)[-1]

    def maps(self, image: jax.Array, *, train: bool = False) -> Maps:
        """The maps of the backbone at four sizes, see `backbones`."""
        return self._run("backbone", image, train=train)

    def attend(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """The map after attention [b, h / 32, w / 32, c]."""
        if self.attention == "none":
            return features
        return self._run("pyramid_attention", features, train=train)

    def _run(self, layer: str, x: jax.Array, *, train: bool) -> Any:
        """A layer of `FREEZABLE`, in inference mode and without a gradient where it is frozen."""
        frozen = layer in self.frozen_layers
        y = getattr(self, layer)(x, train=train and not frozen)
        return jax.lax.stop_gradient(y) if frozen else y

    def vector(self, attended: jax.Array, *, train: bool = False) -> jax.Array:
        """What the head reads, float32 [b, n], of the map after attention."""
        x = self.norm(attended, train=train).astype(jnp.float32)
        return x.reshape(x.shape[0], -1) if self.head == "flatten" else x.mean((1, 2))

    def classify(self, attended: jax.Array, image: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits float32 [b, outputs] of the map after attention.

        `DeepCXRNet` also reads the image, with its frozen parts; this network does not.
        """
        del image
        return self.classifier(self.vector(attended, train=train))

    def on(self, platform: str) -> "DeepCTNet":
        """The same network, computed for the devices of a platform: `cpu`, `gpu` or `tpu`."""
        return self.clone(platform=platform)

    def probabilities(self, logits: jax.Array) -> jax.Array:
        """Probabilities float32 [b, outputs] of logits."""
        logits = logits.astype(jnp.float32)
        return jax.nn.softmax(logits) if self.exclusive else jax.nn.sigmoid(logits)

    @property
    def classifies(self) -> bool:
        """True if it has a classifier; one that only segments has none, see `SegmentationNet`."""
        return True

    @property
    def has_gradcam(self) -> bool:
        """True if there are heatmaps of it, see `inference.grad_cam`."""
        return True
