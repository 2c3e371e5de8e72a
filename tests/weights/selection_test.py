"""Which modules a network begins with: as a whole, or refused by name."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.models.deep_cxr_net import DeepCXRNet, FrozenPart
from jaxcovid.runtime import sharding
from jaxcovid.weights.initial import InitialWeights
from jaxcovid.weights.selection import choose_modules, replace_modules, table
from jaxcovid.workdir.summaries import InitSummary

NARROW = {"growth_rate": 4, "depths": (1, 1, 1, 1)}
OUTPUTS = ("COVID-19",)


@functools.cache
def variables_of(model):
    image = jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    return {name: shapes[name] for name in ("params", "batch_stats")}


def weights_of(model, *, outputs=OUTPUTS, without="", **more):
    """Weights of a network, those of one module left out."""
    rng = np.random.default_rng(0)
    flat = traverse_util.flatten_dict(variables_of(model), sep="/")
    return InitialWeights(
        folder=Path("runs/a"),
        summary=InitSummary("a network", "", "12"),
        backbone="densenet121",
        outputs=outputs,
        arrays={
            name: rng.normal(size=shape.shape).astype(np.float32)
            for name, shape in flat.items()
            if name.split("/")[1] != without
        }
        | more,
    )


def choose(weights, model, what, *, backbone="densenet121", outputs=OUTPUTS):
    return choose_modules(
        weights, variables_of(model), what=what, backbone=backbone, outputs=outputs
    )


def left(modules):
    return {module.name: module.left for module in modules if module.left}


CT_NET = DeepCTNet(**NARROW)


@pytest.mark.parametrize(
    ("what", "initialised"),
    [
        ("backbone", {"pyramid_attention", "norm", "classifier"}),
        ("attention", {"norm", "classifier"}),
        ("everything", set()),
    ],
)
def test_what_is_asked_for_is_loaded_and_nothing_else(what, initialised):
    modules = choose(weights_of(CT_NET), CT_NET, what)
    assert set(left(modules)) == initialised
    whole = replicated = sharding.replicated_sharding(sharding.make_mesh(2))
    variables = jax.tree.map(
        lambda x: jax.device_put(np.zeros(x.shape, x.dtype), replicated), variables_of(CT_NET)
    )
    weights = weights_of(CT_NET)
    replaced = replace_modules(variables, weights, modules)
    assert jax.tree.structure(replaced) == jax.tree.structure(variables)
    for name, array in traverse_util.flatten_dict(replaced, sep="/").items():
        assert array.sharding == whole
        wanted = 0 if name.split("/")[1] in initialised else weights.arrays[name]
        np.testing.assert_array_equal(array, wanted)


def test_the_head_is_left_for_outputs_of_other_names():
    weights = weights_of(CT_NET, outputs=("pneumonia",))
    assert left(choose(weights, CT_NET, "everything")) == {
        "classifier": "its outputs are pneumonia"
    }


def test_the_head_is_left_for_another_size_of_the_image():
    weights = weights_of(CT_NET, **{"params/classifier/kernel": np.zeros((9, 1), np.float32)})
    (reason,) = left(choose(weights, CT_NET, "everything")).values()
    assert "params/classifier/kernel is [9, 1] there and [32, 1] here" in reason


def test_deep_ct_net_becomes_part_3_of_deep_cxr_net():
    model = DeepCXRNet(parts=(FrozenPart("part1", CT_NET),), **NARROW)
    modules = choose(weights_of(CT_NET), model, "everything")
    assert set(left(modules)) == {"classifier", "reduction", "fusion"}
    assert {m.name for m in modules} - set(left(modules)) == {
        "backbone",
        "pyramid_attention",
        "norm",
    }


@pytest.mark.parametrize(
    ("weights", "what", "message"),
    [
        (
            weights_of(CT_NET, without="backbone"),
            "backbone",
            r"missing there \(\d+\): batch_stats/back",
        ),
        (
            weights_of(CT_NET, without="pyramid_attention"),
            "attention",
            r"missing there \(\d+\): .*pyramid_attention",
        ),
        (weights_of(CT_NET, without="norm"), "everything", r"missing there \(4\): .*params/norm"),
        (
            weights_of(DeepCTNet(growth_rate=8, depths=(1, 1, 1, 1))),
            "backbone",
            r"of other shapes \(\d+\): .*block1/layer1/norm1/mean is \[16\] there and \[8\] here",
        ),
        (
            weights_of(DeepCTNet(growth_rate=4, depths=(1, 1, 1, 2))),
            "backbone",
            r"not in this network \(\d+\): batch_stats/backbone/block4/layer2",
        ),
        (
            weights_of(CT_NET, **{"params/other/kernel": np.zeros(3, np.float32)}),
            "everything",
            r"not in this network \(1\): params/other/kernel",
        ),
    ],
)
def test_a_part_of_what_is_asked_for_is_refused(weights, what, message):
    with pytest.raises(ValueError, match=message):
        choose(weights, CT_NET, what)


def test_attention_that_the_network_lacks_is_refused():
    model = DeepCTNet(attention="none", **NARROW)
    with pytest.raises(
        ValueError, match=r"not in this network \(\d+\): batch_stats/pyramid_attention"
    ):
        choose(weights_of(CT_NET), model, "attention")
    with pytest.raises(
        ValueError, match=r"not in this network \(\d+\): batch_stats/pyramid_attention"
    ):
        choose(weights_of(CT_NET), model, "everything")


def test_another_backbone_names_the_option():
    with pytest.raises(ValueError, match=r"use --config\.model\.backbone=densenet121"):
        choose(weights_of(CT_NET), CT_NET, "backbone", backbone="resnet50")


def test_the_table_has_every_module():
    text = table(choose(weights_of(CT_NET, outputs=("pneumonia",)), CT_NET, "everything"))
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["module", "loaded", "initialised", "because"]
    assert ["classifier", "33", "its", "outputs", "are", "pneumonia"] in lines
    assert ["norm", "16"] in lines
    assert {line[0] for line in lines[2:]} == {*variables_of(CT_NET)["params"]}
