"""Deep-CT-Net on the synthetic `phantom` slices: the whole system in minutes on a laptop.

    python -m jaxcovid.prepare phantom
    python -m jaxcovid.train --config=configs/quickstart.py --workdir=runs/quickstart

The backbone is DenseNet-121; a global average takes the place of attention and flatten, which learn
too slowly for so short a training. Beside the classifier is the decoder, which is shown where the
lesions are and says where it sees one. `docs/results.md` has the scores and how much they vary.
Variant `:debug` runs in seconds with a narrow network.
"""

import ml_collections

from configs import default


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """A full-size backbone, from random initialisation, on images that need no download."""
    config = default.get_config()
    config.dataset = "phantom"
    config.objective = "joint"
    config.batch_size = 4
    config.epochs = 3.5
    config.model.attention = "none"
    config.model.head = "gap"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "one_cycle"
    config.preprocessing.size = 160
    config.preprocessing.rotation_deg = 5.0  # a slice is seen three or four times only
    # Gray corners would change the histogram that the next step equalises; this air is black.
    config.preprocessing.fill = 0
    default.apply_variants(config, default.chosen(variant, ("debug",)))
    return config
