r"""Deep-CXR-Net on covid-chestxray-dataset (the paper's Table VI): two frozen parts and a third.

    bash launch/deep_cxr_net.sh runs

trains all three, or this one alone from the workdirs of the other two:

    python -m jaxcovid.train --config=configs/deep_cxr_net.py --workdir=runs/deep_cxr_net \
        --config.parts.part1.workdir=runs/cxr_part1 \
        --config.parts.part2.workdir=runs/cxr_part2

The workdir gets a copy of both. A part is switched off by leaving it out. The paper's split by film
is `--config.dataset=covid_chestxray/paper`; as patients cross it, its test needs `evaluate
--allow_seen`.

Variant `:scratch` has the rate and schedule for random initialisation, `:lite0` begins with
EfficientNet-Lite0 and the features of ImageNet, see `configs/covid_ct.py`, `:debug` runs in
seconds. `VARIANT=lite0 bash launch/deep_cxr_net.sh runs` takes one for all three.
"""

import ml_collections

from configs import covid_ct, cxr_part1, default

VARIANTS = ("scratch", "lite0", "debug")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The configuration of a comma-separated list of `VARIANTS`."""
    chosen = default.chosen(variant, VARIANTS)
    config = default.get_config()
    config.dataset = "covid_chestxray"
    config.network = "deep_cxr_net"
    config.parts.part1.outputs = cxr_part1.FINDINGS
    config.parts.part2.outputs = ("pneumonia", "normal")
    if "lite0" in chosen:
        covid_ct.fine_tune_lite0(config)
    default.apply_variants(config, chosen)
    return config
