"""Part 1 of Deep-CXR-Net: six findings of chest X-rays, on CheXpert or, openly licensed, NIH's set.

    python -m jaxcovid.prepare chexpert --source=CheXpert-v1.0-small
    python -m jaxcovid.train --config=configs/cxr_part1.py:chexpert --workdir=runs/cxr_part1

The paper does not name its six diseases: these are the five of CheXpert's competition and
pneumonia. Of CheXpert's uncertain labels those of atelectasis and edema count as present, those of
pneumonia are left out of the loss, the others count as absent. `:chestxray14` takes the other data
set; `,scratch` has the rate and schedule for random initialisation, `,lite0` begins with
EfficientNet-Lite0 and the features of ImageNet, see `configs/covid_ct.py`, `,debug` runs in
seconds.
"""

import ml_collections

from configs import covid_ct, default

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Pleural Effusion",
    "Pneumonia",
)
VARIANTS = ("chexpert", "chestxray14", "scratch", "lite0", "debug")


def get_config(variant: str = "chexpert") -> ml_collections.ConfigDict:
    """The configuration of a comma-separated list of `VARIANTS`."""
    chosen = default.chosen(variant, VARIANTS)
    config = default.get_config()
    config.dataset = "chestxray14" if "chestxray14" in chosen else "chexpert"
    config.task = "multilabel"
    config.findings = FINDINGS
    config.uncertain.ones = ("Atelectasis", "Edema")
    config.uncertain.ignore = ("Pneumonia",)
    if "lite0" in chosen:
        covid_ct.fine_tune_lite0(config)
    default.apply_variants(config, chosen)
    return config
