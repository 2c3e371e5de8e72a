"""The backbones of the networks, by name.

Each gives maps [b, h / s, w / s, c] of images [b, h, w, 1 or 3], for s of 4, 8, 16 and 32; the last
one after its activation. Screening reads the last map alone, the decoder all four; light_cnn, whose
last map is larger than the one before, serves screening alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from jaxcovid.models.densenet import DenseNet
from jaxcovid.models.efficientnet_lite import EfficientNetLite
from jaxcovid.models.fused.densenet import FusedDenseNet
from jaxcovid.models.light_cnn import LightCNN
from jaxcovid.models.resnet import ResNet
from jaxcovid.models.vgg import VGG

_OF_ONE_FORM: Mapping[str, Callable[..., nn.Module]] = {
    "resnet50": ResNet,
    "vgg16": VGG,
    "light_cnn": LightCNN,
}
BACKBONES = ("densenet121", "densenet169", "efficientnet_lite0", *_OF_ONE_FORM)
FOR_SCREENING_ALONE = ("light_cnn",)
DEPTHS_169 = (6, 12, 32, 32)


def make_backbone(
    name: str,
    *,
    densenet: Mapping[str, Any],
    fused: Mapping[str, Any] | None,
    grouped_depthwise: bool = False,
    **shared: Any,
) -> nn.Module:
    """The backbone of a name.

    Args:
      name: one of `BACKBONES`.
      densenet: `growth_rate` and `depths` of densenet121; the other backbones have their own.
      fused: arguments of the fused form of a DenseNet alone; None is its plain form. The other
        backbones have one form.
      grouped_depthwise: of efficientnet_lite0, see `EfficientNetLite.grouped`.
      **shared: `dtype` and `axis_name`.
    """
    if name in _OF_ONE_FORM:
        return _OF_ONE_FORM[name](**shared)
    if name == "efficientnet_lite0":
        return EfficientNetLite(**shared, grouped=grouped_depthwise)
    shape = {"depths": DEPTHS_169} if name == "densenet169" else densenet
    form: Callable[..., nn.Module] = DenseNet if fused is None else FusedDenseNet
    return form(**shape, **shared, **(fused or {}))
