import importlib
import operator
import pathlib

import pytest

from jaxcovid import train

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
NAMES = sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem != "__init__")


def get(name, variant=""):
    return importlib.import_module(f"configs.{name}").get_config(variant)


def options(config, prefix=""):
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from options(value, f"{prefix}{key}.")
        else:
            yield prefix + key


@pytest.mark.parametrize("name", NAMES)
def test_every_config_and_variant_has_the_options_of_the_default(name):
    module = importlib.import_module(f"configs.{name}")
    for variant in ("", *getattr(module, "VARIANTS", ["debug"])):
        assert set(options(get(name, variant))) == set(options(get("default")))
    with pytest.raises(ValueError, match="nonsense"):
        get(name, "nonsense")


def test_the_default_is_the_papers_optimizer():
    config = get("covid_ct")
    assert config.optimizer.learning_rate == 1e-5
    assert config.optimizer.schedule == "constant"
    assert config.preprocessing.size == 256


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"model.backbone": "vgg"}, "model.backbone is 'vgg'; use one of densenet121, densenet169"),
        ({"model.attention": "big"}, "model.attention is 'big'; use one of"),
        ({"batch_size": 0}, "not divisible"),
        ({"epochs": 0.0}, "epochs is 0.0"),
        ({"preprocessing.mean": 100.0}, "mean"),
        ({"optimizer.schedule": "linear"}, "optimizer.schedule"),
        ({"optimizer.accumulate_steps": 0}, "accumulate_steps"),
        ({"class_weights": "heavy"}, "class_weights"),
        ({"batch_norm": "local"}, "batch_norm"),
        ({"slices": 3}, "slices is 3, which does not divide 8 devices; use one of 1, 2, 4, 8"),
        (
            {"slices": 2, "batch_norm": "groups:3"},
            "the 4 devices of a slice; use one of 1, 2, 4, 8",
        ),
        ({"positive_class": "flu"}, "positive_class 'flu' is not a class"),
        ({"task": "one_vs_rest"}, "needs 3 classes"),
        ({"task": "multilabel"}, "has classes"),
        ({"network": "resnet"}, "network is 'resnet'; use one of"),
        ({"parts.part1.workdir": "runs/a"}, r"use --config\.network=deep_cxr_net"),
        ({"network": "deep_cxr_net", "fusion.width": 0}, "fusion.width 0"),
        ({"network": "deep_cxr_net", "parts.part1.workdir": "runs/a"}, "runs/a is not a workdir"),
        ({"init.weights": "nowhere"}, "init.weights is nowhere, which does not exist"),
        ({"init.what": "head"}, "init.what is 'head'; use one of backbone, attention, everything"),
        ({"init.freeze_epochs": 1.0}, "there is nothing to keep"),
        ({"init.freeze_epochs": -1.0}, "init.freeze_epochs is -1.0"),
        ({"init.layer_decay": 0.0}, "init.layer_decay is 0.0"),
        ({"workers": -1}, "workers"),
        ({"cache": "ram"}, "cache is 'ram'; use one of none, memory, disk"),
        ({"save_every_steps": 0}, "save_every_steps"),
        ({"objective": "distillation"}, "objective=distillation needs"),
        ({"distillation.teachers": ("a", "b")}, "teachers has 2 folders, but objective is screen"),
        (
            {"objective": "distillation", "distillation.teachers": ("nowhere",)},
            "distillation.teachers is nowhere, which does not exist",
        ),
        ({"objective": "contrastive", "contrastive.width": 0}, "contrastive.width is 0"),
        ({"objective": "contrastive", "preprocess_on": "device"}, "one view of each image"),
        ({"objective": "contrastive", "network": "deep_cxr_net"}, "needs --config.network=deep_ct"),
    ],
)
def test_impossible_options_fail_before_anything_is_written(tmp_path, data_dir, override, message):
    config = get("default", "debug")
    config.dataset = "folder/blobs"
    config.update_from_flattened_dict(override)
    with pytest.raises(ValueError, match=message):
        train.run(config, workdir=tmp_path / "run", data_dir=data_dir)
    assert not (tmp_path / "run").exists()


def test_the_features_of_imagenet_keep_the_input_that_they_were_trained_with():
    config = get("covid_ct", "imagenet")
    assert (config.model.backbone, config.init.weights) == ("densenet121", "weights/densenet121")
    assert (config.preprocessing.mean, config.preprocessing.std) == (114.5, 57.6)
    config = get("covid_ct", "imagenet,lite0")
    assert config.model.backbone == "efficientnet_lite0"
    assert config.init.weights == "weights/efficientnet_lite0"
    assert (config.preprocessing.mean, config.preprocessing.std) == (127.0, 128.0)
    assert get("covid_ct", "lite0").init.weights == ""
    assert get("covid_ct", "best") == config


def test_rivals_differ_in_their_network_alone():
    def changed(variant):
        config, other = get("rivals", variant), get("covid_ct", "scratch")
        return {
            name
            for name in options(config)
            if operator.attrgetter(name)(config) != operator.attrgetter(name)(other)
        }

    network = {"model.backbone", "model.attention", "model.head"}
    for name in ("densenet169", "resnet50", "vgg16", "light_cnn", "lite0"):
        assert changed(name) == network
    assert changed("covid_resnet") == network | {"preprocessing.size"}
    assert changed("caad") == network | {"network"}
    assert changed("covnet") == network | {"network", "volume.slices", "batch_size"}
    assert get("rivals", "lite0,imagenet").preprocessing.std == 128.0
    with pytest.raises(ValueError, match="give one of densenet169"):
        get("rivals", "vgg16,resnet50")


def test_a_data_set_that_is_not_prepared_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m jaxcovid\.prepare covid_ct"):
        train.run(get("covid_ct"), workdir=tmp_path / "run", data_dir=tmp_path)
