"""Deep-CT-Net on CT-COV19 (the paper's Table III), and from there to COVID-CT (Table IV).

    python -m jaxcovid.prepare ct_cov19 --source=CT-COV19
    python -m jaxcovid.train --config=configs/ct_cov19.py --workdir=runs/ct_cov19
    python -m jaxcovid.evaluate --workdir=runs/ct_cov19 --split=test
    python -m jaxcovid.evaluate --workdir=runs/ct_cov19 --split=test --dataset=covid_ct

Three one-against-rest outputs; the last command takes the one of COVID-19, with its threshold from
CT-COV19's validation split. Variant `:binary` has that output alone, `:debug` runs in seconds.
"""

import ml_collections

from configs import default

VARIANTS = ("binary", "debug")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The configuration of a comma-separated list of `VARIANTS`."""
    chosen = default.chosen(variant, VARIANTS)
    config = default.get_config()
    config.dataset = "ct_cov19"
    config.task = "binary" if "binary" in chosen else "one_vs_rest"
    default.apply_variants(config, chosen)
    return config
