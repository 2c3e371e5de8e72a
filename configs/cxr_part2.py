"""Part 2 of Deep-CXR-Net: pneumonia or not, two likelihoods, on Kaggle's chest-xray-pneumonia.

    python -m jaxcovid.prepare chest_xray_pneumonia --source=chest_xray
    python -m jaxcovid.train --config=configs/cxr_part2.py --workdir=runs/cxr_part2

Its films are of children of one to five years: it learns on another population than it is asked
about later. Variant `:scratch` has the rate and schedule for random initialisation, `:lite0` begins
with EfficientNet-Lite0 and the features of ImageNet, see `configs/covid_ct.py`, `:debug` runs in
seconds.
"""

import ml_collections

from configs import covid_ct, default

VARIANTS = ("scratch", "lite0", "debug")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The configuration of a comma-separated list of `VARIANTS`."""
    chosen = default.chosen(variant, VARIANTS)
    config = default.get_config()
    config.dataset = "chest_xray_pneumonia"
    config.task = "multiclass"
    config.positive_class = "pneumonia"
    if "lite0" in chosen:
        covid_ct.fine_tune_lite0(config)
    default.apply_variants(config, chosen)
    return config
