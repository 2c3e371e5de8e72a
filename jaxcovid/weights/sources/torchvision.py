"""torchvision's DenseNets, with the names of today (`norm1`) and those until 2018 (`norm.1`)."""

from jaxcovid.weights.converted import Input, Origin
from jaxcovid.weights.files.weight_file import Content
from jaxcovid.weights.plan import Plan
from jaxcovid.weights.sources.densenet import NETWORKS
from jaxcovid.weights.sources.torch_densenet import (
    backbone_entries,
    current_names,
    skipped_classifier,
    skipped_counters,
)

ORIGIN = Origin("torchvision", "https://github.com/pytorch/vision", "BSD-3-Clause")
# Of ImageNet, whose mean and deviation differ between the channels.
IMAGENET = Input(3, 0.0, 1.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
NOTE = (
    "trained on colour images with a mean and deviation for each channel; for gray ones "
    "--config.preprocessing.mean=114.5 --config.preprocessing.std=57.6 comes nearest"
)


def plans(content: Content) -> list[Plan]:
    """What the file is if it comes from torchvision."""
    arrays = current_names(content.arrays)
    return [
        Plan(
            origin=ORIGIN,
            input=IMAGENET,
            backbone=backbone,
            arrays=arrays,
            entries=tuple(backbone_entries(shape)),
            skipped=skipped_counters(arrays) | skipped_classifier(arrays),
            notes=(NOTE,),
        )
        for backbone, shape in NETWORKS.items()
    ]
