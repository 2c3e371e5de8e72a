"""torchxrayvision's DenseNets: X-rays of one channel, values of -1024 to 1024, 18 findings."""

import numpy as np

from jaxcovid.weights.converted import Input, Origin
from jaxcovid.weights.files.weight_file import Content
from jaxcovid.weights.plan import Entry, Plan
from jaxcovid.weights.sources.densenet import NETWORKS, feature_channels
from jaxcovid.weights.sources.torch_densenet import (
    backbone_entries,
    current_names,
    identity_norm,
    skipped_counters,
)

ORIGIN = Origin("torchxrayvision", "https://github.com/mlmed/torchxrayvision", "Apache-2.0")
FINDINGS = (
    "Atelectasis",
    "Consolidation",
    "Infiltration",
    "Pneumothorax",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Effusion",
    "Pneumonia",
    "Pleural_Thickening",
    "Cardiomegaly",
    "Nodule",
    "Mass",
    "Hernia",
    "Lung Lesion",
    "Fracture",
    "Lung Opacity",
    "Enlarged Cardiomediastinum",
)
_RANGE = 1024.0
_INPUT = Input(1, -_RANGE, _RANGE, preprocessing_mean=127.5, preprocessing_std=127.5)
_STEM = "features.conv0.weight"
_THRESHOLDS = "op_threshs"
_NOTES = (
    "the range of the input is part of the first kernel now, which takes values of -1 to 1",
    "outputs are logits; torchxrayvision also rescales probabilities by its operating thresholds",
    "weights of a single data set leave the outputs untrained that it has no labels for",
)


def stem_kernel(kernel: np.ndarray) -> np.ndarray:
    """The kernel [7, 7, 3, out] for three equal channels of -1 to 1.

    Args:
      kernel: [out, 1, 7, 7], for one channel of -1024 to 1024.
    """
    scaled = kernel.transpose(2, 3, 1, 0).astype(np.float64) * (_RANGE / 3)
    return scaled.repeat(3, axis=2)


def plans(content: Content) -> list[Plan]:
    """What the file is if it comes from torchxrayvision; nothing if its images have 3 channels."""
    arrays = current_names(content.arrays)
    if _STEM not in arrays or arrays[_STEM].shape[1:2] != (1,):
        return []
    skipped = skipped_counters(arrays)
    if _THRESHOLDS in arrays:
        skipped[_THRESHOLDS] = "operating thresholds, which rescale probabilities"
    made = []
    for backbone, shape in NETWORKS.items():
        channels = feature_channels(shape)
        classifier = [
            Entry(
                "params/classifier/kernel",
                {"classifier.weight": (len(FINDINGS), channels)},
                np.transpose,
            ),
            Entry("params/classifier/bias", {"classifier.bias": (len(FINDINGS),)}, np.asarray),
        ]
        entries = backbone_entries(shape, stem_channels=1, stem_change=stem_kernel)
        plan = Plan(
            origin=ORIGIN,
            input=_INPUT,
            backbone=backbone,
            arrays=arrays,
            entries=(*entries, *identity_norm("norm", channels), *classifier),
            skipped=skipped,
            attention="none",
            head="gap",
            outputs=FINDINGS,
            notes=_NOTES,
        )
        made.append(plan)
    return made
