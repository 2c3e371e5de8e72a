"""The network that a configuration describes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from jaxcovid.models import build
from jaxcovid.models.anomaly_net import AnomalyNet
from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.models.deep_cxr_net import DeepCXRNet, FrozenPart
from jaxcovid.training.objective import total_loss


def config_of(network="deep_ct_net", **model):
    config = default.get_config("debug").to_dict()
    config["network"] = network
    config["model"] |= {"growth_rate": 8, "depths": [2, 2, 2, 2], **model}
    return config


def test_the_options_reach_the_network():
    config = config_of(backbone="resnet50", attention="wide", head="gap", dtype="bfloat16")
    model = build.make_model(config, outputs=3, exclusive=True)
    assert type(model) is DeepCTNet
    assert model == DeepCTNet(
        outputs=3,
        exclusive=True,
        backbone_name="resnet50",
        attention="wide",
        head="gap",
        growth_rate=8,
        depths=(2, 2, 2, 2),
        dtype="bfloat16",
    )


def test_an_anomaly_net_learns_both_its_layers_and_adds_them():
    config = config_of("anomaly_net", attention="none", head="gap")
    model = build.make_model(config, outputs=1, exclusive=False)
    assert type(model) is AnomalyNet
    image = jax.random.normal(jax.random.key(0), (4, 32, 32, 1))
    variables = model.init(jax.random.key(1), image)
    target = jnp.array([[0.0], [1.0], [0.0], [1.0]])

    def loss(params):
        logits = model.apply({**variables, "params": params}, image, method="all_logits")
        weights = jnp.ones((2, 1))
        return total_loss(logits, {"target": target}, model=model, weights=weights)

    gradient, metrics = jax.grad(loss, has_aux=True)(variables["params"])
    assert metrics["anomaly_loss"] > 0
    assert all(np.any(gradient[name]["kernel"]) for name in ("classifier", "anomaly"))
    logits = model.apply(variables, image, method="all_logits")
    np.testing.assert_allclose(
        model.apply(variables, image), logits["classes"] + logits["anomaly"] - 2.5, rtol=1e-6
    )
    with pytest.raises(ValueError, match="independent outputs"):
        build.make_model(config, outputs=3, exclusive=True)


def test_a_volume_net_takes_the_largest_mean_of_all_slices():
    config = config_of("volume_net", attention="none", head="gap")
    with pytest.raises(ValueError, match=r"volume\.slices=N"):
        build.make_model(config, outputs=1, exclusive=False)
    config["volume"] = {"slices": 3}
    model = build.make_model(config, outputs=1, exclusive=False)
    volumes = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    variables = model.init(jax.random.key(1), volumes[..., :1])
    pooled = model.apply(variables, volumes, method="features")
    alone = [
        model.apply(variables, volumes[..., i : i + 1], method="features")[:, 0, 0]
        for i in range(3)
    ]
    np.testing.assert_allclose(pooled[:, 0, 0], np.max(alone, axis=0), rtol=1e-4, atol=1e-5)
    order = jnp.array([2, 0, 1])
    np.testing.assert_allclose(
        model.apply(variables, volumes[..., order]), model.apply(variables, volumes), rtol=1e-4
    )
    mapped = config_of("volume_net") | {"volume": {"slices": 3}}
    with pytest.raises(ValueError, match=r"model\.attention=none"):
        build.make_model(mapped, outputs=1, exclusive=False)


def test_parts_are_frozen_in_the_order_of_their_names():
    parts = {
        name: build.make_model(config_of(), outputs=outputs, exclusive=False)
        for name, outputs in (("part2", 2), ("part1", 6))
    }
    model = build.make_model(config_of("deep_cxr_net"), outputs=1, exclusive=False, parts=parts)
    assert type(model) is DeepCXRNet
    assert model.parts == (
        FrozenPart("part1", parts["part1"]),
        FrozenPart("part2", parts["part2"]),
    )
    assert (model.part3, model.reduced, model.width) == (True, 128, 64)
    on_tpu = model.on("tpu")
    assert on_tpu.platform == "tpu"
    assert [part.model.platform for part in on_tpu.parts] == ["tpu", "tpu"]


def test_an_unknown_network_names_the_known_ones():
    with pytest.raises(ValueError, match="use one of deep_ct_net, deep_cxr_net"):
        build.make_model(config_of("resnet"), outputs=1, exclusive=False)


def test_a_backbone_for_screening_alone_is_refused_elsewhere():
    config = config_of(backbone="light_cnn", attention="none", head="gap")
    assert build.make_model(config, outputs=1, exclusive=False).backbone_name == "light_cnn"
    with pytest.raises(ValueError, match="light_cnn needs objective=screening"):
        build.make_model({**config, "objective": "joint"}, outputs=1, exclusive=False)
