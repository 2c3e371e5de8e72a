"""The order in which records are trained on: each once an epoch, or strata in given shares."""

from collections.abc import Sequence
from dataclasses import dataclass

import grain
import numpy as np

_EPOCHS = 10**6  # as good as endless; what grain calls so is too long for batches of one image


@dataclass(frozen=True)
class Stratum:
    """Records of a training split that have a share of every batch.

    Attributes:
      positions: of the records in the split; each comes once before any comes again.
      share: of the images of a batch, above 0, relative to those of the other strata.
    """

    positions: Sequence[int]
    share: float


def endless_order(count: int, *, seed: int, strata: Sequence[Stratum] = ()) -> grain.MapDataset:
    """The positions of the records to train on, without an end; random steps may follow.

    Strata alternate as evenly as their shares allow, so that every run of consecutive images holds
    the share of each to within about an image (and, as grain rounds shares, 1 % of the smallest).

    Args:
      count: records of the split.
      seed: of the shuffling, which every pass over the split, or a stratum, does anew.
      strata: none takes every record of the split once an epoch.
    """
    if not strata:
        return grain.MapDataset.range(count).seed(seed).shuffle().repeat(_EPOCHS)
    orders = []
    for number, stratum in enumerate(strata):
        own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        positions = grain.MapDataset.source(stratum.positions)
        orders.append(positions.seed(own_seed).shuffle().repeat(_EPOCHS))
    return grain.MapDataset.mix(orders, [stratum.share for stratum in strata]).seed(seed)
