r"""The methods that the paper compares itself with, under the same pipeline, budget and metrics.

    python -m jaxcovid.train --config=configs/rivals.py:light_cnn --workdir=runs/light_cnn

Each is its network alone, under the recipe of `configs/covid_ct.py:scratch`, so that a difference
between two is one of networks; `,imagenet` begins with the features of ImageNet, for whoever has
them for that network (docs/weights.md).

  densenet169   Table IV, and Table V as COVID-CT's own baseline, reference [46]
  resnet50      Table IV, and the first half of reference [12] in Table VI
  light_cnn     Table V, reference [29]
  covid_resnet  Table VI, reference [11]: ResNet-50 on images of 128, then 224, then 229 pixels
  vgg16         Table VI, the other half of reference [12]
  covnet        Table III, reference [44]: ResNet-50 shared over 16 slices of a volume
  caad          Table VI, reference [45]: a score of anomaly beside the classifier, on ResNet-50
  lite0         none of the paper's: EfficientNet-Lite0, what a small network would be today

The ensemble of reference [12] is the mean of two networks:

    python -m jaxcovid.evaluate --workdir=runs/resnet50,runs/vgg16

covid_resnet is trained three times, each from the one before; `:covid_resnet` is the first:

    python -m jaxcovid.train --config=configs/rivals.py:covid_resnet --workdir=runs/resnet128
    python -m jaxcovid.train --config=configs/rivals.py:covid_resnet --workdir=runs/resnet224 \
        --config.preprocessing.size=224 --config.init.weights=runs/resnet128 \
        --config.init.what=everything

Without a name it is densenet169. `,debug` runs in seconds.
"""

import ml_collections

from configs import covid_ct, default

BACKBONES = {
    "densenet169": "densenet169",
    "resnet50": "resnet50",
    "light_cnn": "light_cnn",
    "covid_resnet": "resnet50",
    "vgg16": "vgg16",
    "covnet": "resnet50",
    "caad": "resnet50",
    "lite0": "efficientnet_lite0",
}
VARIANTS = (*BACKBONES, "imagenet", "debug")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The configuration of one of `BACKBONES`, with or without `imagenet` and `debug`.

    Raises:
      ValueError: several of them.
    """
    chosen = default.chosen(variant, VARIANTS)
    names = [name for name in chosen if name in BACKBONES] or ["densenet169"]
    if len(names) > 1:
        raise ValueError(f"give one of {', '.join(BACKBONES)}, not {variant!r}")
    config = default.get_config()
    config.dataset = "covid_ct"
    default.make_scratch(config)
    config.model.backbone = BACKBONES[names[0]]
    config.model.attention = "none"
    config.model.head = "gap"
    if names[0] == "covid_resnet":
        config.preprocessing.size = 128
    if names[0] == "covnet":
        config.network, config.volume.slices = "volume_net", 16
        config.batch_size = 4  # volumes
    if names[0] == "caad":
        config.network = "anomaly_net"
    if "imagenet" in chosen:
        covid_ct.begin_with_imagenet(config, f"weights/{config.model.backbone}")
    if names == ["lite0"]:
        covid_ct.take_lite0(config, weights="imagenet" in chosen)
    default.apply_variants(config, chosen)
    return config
