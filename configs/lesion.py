"""Lungs and lesion on COVID-19-CT-Seg, by the decoder that the paper announces (section 3.3).

    python -m jaxcovid.prepare covid19_ct_seg/fold0 --source=COVID-19-CT-Seg
    python -m jaxcovid.train --config=configs/lesion.py --workdir=runs/lesion
    python -m jaxcovid.evaluate --workdir=runs/lesion --split=test
    python -m jaxcovid.evaluate --workdir=runs/lesion --split=test --dataset=covid_ct
    python -m jaxcovid.predict --workdir=runs/lesion --segment scan.nii.gz

The fourth command screens by the share of the lungs that is involved, on a source that the network
has never seen. Variants `:fold1` to `:fold4` test on other patients. Variant `:augmented` also
changes scale, window, sharpness and file format at random; `:lite0` takes
EfficientNet-Lite0 with the features of ImageNet as the backbone, see `configs/covid_ct.py`, and
`:joint` also screens, on a data set with masks and classes, such as `--config.dataset=phantom`.
`:debug` runs in seconds.
"""

import ml_collections

from configs import covid_ct, default

FOLDS = tuple(f"fold{i}" for i in range(5))
VARIANTS = (*FOLDS, "augmented", "lite0", "joint", "debug")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The configuration of a comma-separated list of `VARIANTS`."""
    chosen = default.chosen(variant, VARIANTS)
    config = default.get_config()
    folds = [name for name in chosen if name in FOLDS]
    config.dataset = f"covid19_ct_seg/{folds[0] if folds else FOLDS[0]}"
    config.objective = "joint" if "joint" in chosen else "segmentation"
    config.batch_size = 4
    config.epochs = 20.0
    config.preprocessing.fill = 0
    config.optimizer.learning_rate = 3e-4
    config.optimizer.head_lr_multiplier = 10.0  # the decoder begins at random
    config.optimizer.schedule = "one_cycle"
    if "augmented" in chosen:
        default.augment(config)
    if "lite0" in chosen:
        covid_ct.take_lite0(config)
    default.apply_variants(config, chosen)
    return config
