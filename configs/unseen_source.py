"""What a network is worth on a source that it has never seen, and what helps (Table IV, harder).

    bash launch/leave_one_source_out.sh runs/unseen covid_ct,sars_cov_2_ct

trains on all sources but one and tests on that one, for each, once for every variant below. Each
adds one thing to the variant before it; nothing is chosen on the source that is left out.

  scratch    EfficientNet-Lite0 from random weights, 128x128, 10 epochs
  imagenet   begins with the features of ImageNet, see `configs/covid_ct.py`
  augmented  other scales, windows, sharpness and file formats, see `default.augment`
  lungs      cropped to the lungs, which the network of --config.lungs.workdir=DIR marks
  lesion     is shown where the lesion is: objective=joint, a source of masks beside the others;
             decoder and classifier learn at ten times the rate

Without a variant it is `augmented`. `debug`, alone or beside one of them, runs in seconds.
"""

import ml_collections

from configs import covid_ct, default

STEPS = ("scratch", "imagenet", "augmented", "lungs", "lesion")  # each with those before it
VARIANTS = (*STEPS, "debug")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The configuration of one of `STEPS`, with or without `debug`.

    Raises:
      ValueError: more than one of them.
    """
    chosen = default.chosen(variant, VARIANTS)
    steps = [name for name in chosen if name in STEPS] or ["augmented"]
    if len(steps) > 1:
        raise ValueError(f"give one of {', '.join(STEPS)}, not {variant!r}")
    taken = STEPS[: STEPS.index(steps[0]) + 1]
    config = default.get_config()
    config.dataset = "covid_ct"
    config.batch_size = 16
    config.epochs = 10.0
    config.mixture.balance = "classes"
    config.preprocessing.size = 128
    config.preprocessing.fill = 0
    config.optimizer.learning_rate = 5e-4
    config.optimizer.schedule = "one_cycle"
    config.model.attention = "none"
    config.model.head = "gap"
    covid_ct.take_lite0(config)
    if "imagenet" not in taken:
        config.init.weights, config.init.layer_decay = "", 1.0
    if "augmented" in taken:
        default.augment(config)
    if "lungs" in taken:
        config.lungs.use = "crop"
    if "lesion" in taken:
        config.objective = "joint"
        config.optimizer.head_lr_multiplier = 10.0  # the decoder begins at random
    if "debug" in chosen:
        default.make_debug(config)
    return config
