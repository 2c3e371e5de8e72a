"""Builds the network that a configuration describes."""

from collections.abc import Mapping
from typing import Any

from jaxcovid.models.anomaly_net import AnomalyNet
from jaxcovid.models.backbones import FOR_SCREENING_ALONE
from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.models.deep_cxr_net import DeepCXRNet, FrozenPart
from jaxcovid.models.representation_net import ContrastiveNet, DistillationNet, Teacher
from jaxcovid.models.segmentation_net import SegmentationNet
from jaxcovid.models.volume_net import VolumeNet

NETWORKS = ("deep_ct_net", "deep_cxr_net", "anomaly_net", "volume_net")
MASKED = ("segmentation", "joint")  # objectives that segment, with a decoder
REPRESENTATIONS = ("distillation", "contrastive")  # objectives without labels or a classifier
TWO_VIEWS = ("contrastive",)  # objectives that see each image twice, changed at random
OBJECTIVES = ("screening", *MASKED, *REPRESENTATIONS)


def make_model(
    config: Mapping[str, Any],
    *,
    outputs: int,
    exclusive: bool,
    parts: Mapping[str, DeepCTNet] | None = None,
    teachers: Mapping[str, Mapping[str, Any]] | None = None,
) -> DeepCTNet:
    """The network of a configuration.

    Args:
      config: a whole configuration, see `configs/default.py`; read are `network`, `objective`,
        `volume`, `model`, `preprocessing` and the groups of the network and the objective.
      outputs: number of logits.
      exclusive: the outputs are one softmax; else independent sigmoids.
      parts: deep_cxr_net: its frozen networks by name.
      teachers: distillation: what `run.TeacherSummary` says of each, by name.

    Raises:
      ValueError: an option does not exist or is out of its range.
    """
    options = {**config["model"], "depths": tuple(config["model"]["depths"])}
    options["backbone_name"] = options.pop("backbone")
    options |= {"outputs": outputs, "exclusive": exclusive}
    objective = config["objective"]
    if (config["network"] == "volume_net") != bool(config["volume"]["slices"]):
        raise ValueError(
            f"network={config['network']} and volume.slices={config['volume']['slices']}: volumes "
            "are for --config.network=volume_net, which needs --config.volume.slices=N"
        )
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}; use one of {', '.join(OBJECTIVES)}")
    if objective != "screening" and config["network"] != "deep_ct_net":
        raise ValueError(f"objective={objective} needs --config.network=deep_ct_net")
    if objective != "screening" and options["backbone_name"] in FOR_SCREENING_ALONE:
        raise ValueError(f"model.backbone={options['backbone_name']} needs objective=screening")
    if objective == "contrastive":
        return ContrastiveNet(width=config["contrastive"]["width"], **options)
    if objective == "distillation":
        return DistillationNet(teachers=_make_teachers(config, teachers or {}), **options)
    if objective in MASKED:
        return SegmentationNet(joint=objective == "joint", **options)
    if config["network"] == "deep_ct_net":
        return DeepCTNet(**options)
    if config["network"] == "anomaly_net":
        return AnomalyNet(**options)
    if config["network"] == "volume_net":
        return VolumeNet(**options)
    if config["network"] == "deep_cxr_net":
        frozen = tuple(FrozenPart(name, part) for name, part in sorted((parts or {}).items()))
        return DeepCXRNet(parts=frozen, **config["fusion"], **options)
    raise ValueError(f"network is {config['network']!r}; use one of {', '.join(NETWORKS)}")


def _make_teachers(
    config: Mapping[str, Any], teachers: Mapping[str, Mapping[str, Any]]
) -> tuple[Teacher, ...]:
    """The networks of teachers, and how the student's images become theirs."""
    mean, std = config["preprocessing"]["mean"], config["preprocessing"]["std"]
    made = []
    for name, teacher in sorted(teachers.items()):
        model = DeepCTNet(
            backbone_name=teacher["backbone"],
            growth_rate=teacher["growth_rate"],
            depths=tuple(teacher["depths"]),
            dtype=config["model"]["dtype"],
            form=config["model"]["form"],
        )
        if (teacher["mean"], teacher["std"]) == (mean, std):
            made.append(Teacher(name, model))
        elif teacher["mean"] is None:
            made.append(Teacher(name, model, scale=None))
        elif mean is None:
            raise ValueError(
                f"{name} of distillation.teachers saw images less {teacher['mean']:g}, over "
                f"{teacher['std']:g}, which cannot be made of images that each have a mean of 0; "
                f"use --config.preprocessing.mean={teacher['mean']:g} "
                f"--config.preprocessing.std={teacher['std']:g}"
            )
        else:
            offset = (mean - teacher["mean"]) / teacher["std"]
            made.append(Teacher(name, model, scale=std / teacher["std"], offset=offset))
    return tuple(made)
