"""Deep-CT-Net on COVID-CT, official split (the paper's Table V).

    python -m jaxcovid.prepare covid_ct --source=COVID-CT
    python -m jaxcovid.train --config=configs/covid_ct.py --workdir=runs/covid_ct

The default is the paper's optimizer, Adam at a constant 1e-5: 15 epochs from random initialisation
gave a test AUC of .711 (95 % interval .608 to .796) on 203 images, with the validation AUC still
rising. Variant `:scratch` has a one-cycle schedule with its peak at 1e-4, the best on validation of
those tried: .788 (.683 to .865), half an hour on two shared CPU cores. Variants `:debug` and
`:scratch,debug` run in seconds with a narrow network. `launch/sweep.py` makes commands of `sweep`.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import default

VARIANTS = ("scratch", "debug")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The configuration of a comma-separated list of `VARIANTS`."""
    chosen = default.chosen(variant, VARIANTS)
    config = default.get_config()
    config.dataset = "covid_ct"
    default.apply_variants(config, chosen)
    return config


def sweep() -> Iterator[dict[str, Any]]:
    """Three seeds: how much of a score is luck."""
    for seed in range(3):
        yield {"seed": seed}
