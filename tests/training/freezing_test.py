"""The head learns first: what is frozen stays to the bit, and then learns as if it began there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcovid.models.deep_ct_net import FREEZABLE, DeepCTNet
from jaxcovid.runtime import sharding
from jaxcovid.training.compilation import jit_train_step
from jaxcovid.training.freezing import Freezing
from jaxcovid.training.layer_rates import layer_rates
from jaxcovid.training.optimizer import make_optimizer
from jaxcovid.training.state import jit_init_state

MODEL = DeepCTNet(growth_rate=4, depths=(1, 1, 1, 1), head="gap")
PLAIN = {"weight_decay": 0.1, "head_lr_multiplier": 1.0, "accumulate_steps": 1}


def optimizer(**options):
    return make_optimizer(optax.constant_schedule(1e-2), **{**PLAIN, **options})


def steps(count, devices=1, accumulate_steps=1, freezing=None):
    """The states of a training, from its initial one on."""
    opt = optimizer(accumulate_steps=accumulate_steps, freezing=freezing)
    mesh = sharding.make_mesh(devices)
    state = jit_init_state(mesh, model=MODEL, optimizer=opt, image_size=64, seed=0)()
    step = jit_train_step(
        mesh,
        model=MODEL,
        optimizer=opt,
        weights=np.ones((2, 1), np.float32),
        batch_norm="global",
        freezing=freezing,
    )
    rng = np.random.default_rng(0)
    states = [jax.device_get(state)]
    for _ in range(count):
        rows = {
            "image": rng.normal(size=(4, 64, 64, 1)).astype(np.float32),
            "target": rng.integers(0, 2, (4, 1)).astype(np.float32),
        }
        state, _ = step(state, sharding.place_batch(rows, mesh))
        states.append(jax.device_get(state))
    return states


def moved(before, after):
    """The modules whose parameters, and those whose running moments, differ at all."""

    def differ(one, other):
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        return any(not np.array_equal(a, b) for a, b in pairs)

    return tuple(
        {name for name in tree if differ(tree[name], other[name])}
        for tree, other in (
            (before.params, after.params),
            (before.batch_stats, after.batch_stats),
        )
    )


def test_frozen_layers_and_their_moments_stay_until_their_time():
    states = steps(3, devices=2, freezing=Freezing(FREEZABLE, updates=2, steps=2))
    assert moved(states[0], states[2]) == ({"norm", "classifier"}, {"norm"})
    everything = {"norm", "classifier", *FREEZABLE}
    assert moved(states[2], states[3]) == (everything, everything - {"classifier"})


def test_a_layer_that_is_not_frozen_learns_beside_those_that_are():
    states = steps(1, freezing=Freezing(("backbone",), updates=1, steps=1))
    learned = {"pyramid_attention", "norm"}
    assert moved(states[0], states[1]) == (learned | {"classifier"}, learned)


def test_freezing_ends_with_an_update_of_accumulated_steps():
    states = steps(4, accumulate_steps=2, freezing=Freezing(FREEZABLE, updates=1, steps=2))
    assert "backbone" not in moved(states[0], states[3])[0]
    assert "backbone" in moved(states[3], states[4])[0]


def test_after_freezing_adam_begins_anew():
    """The first update of a frozen weight is as large as the very first of an unfrozen one."""
    params = {"backbone": {"stem": {"kernel": jnp.ones(3)}}, "norm": {"scale": jnp.ones(3)}}
    gradients = jax.tree.map(jnp.ones_like, params)
    opt = optimizer(weight_decay=0.0, freezing=Freezing(("backbone",), updates=50, steps=50))
    state, update = opt.init(params), jax.jit(opt.update)
    for _ in range(50):
        updates, state = update(gradients, state, params)
        assert not updates["backbone"]["stem"]["kernel"].any()
        np.testing.assert_allclose(updates["norm"]["scale"], -1e-2, rtol=1e-4)
    for _ in range(20):
        updates, state = update(gradients, state, params)
        np.testing.assert_allclose(updates["backbone"]["stem"]["kernel"], -1e-2, rtol=1e-4)


@functools.cache
def shapes(**options):
    model = DeepCTNet(head="gap", **options)
    image = jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)["params"]


def test_rates_fall_from_the_head_to_the_stem():
    rates = layer_rates(shapes(depths=(1, 1, 1, 1)), 0.5)
    assert set(jax.tree.leaves([rates["classifier"], rates["norm"]])) == {1.0}
    assert set(jax.tree.leaves(rates["pyramid_attention"])) == {0.5}
    by_layer = {name: set(jax.tree.leaves(tree)) for name, tree in rates["backbone"].items()}
    assert by_layer["final_norm"] == {0.5**2}
    assert by_layer["block4"] == {0.5**3}
    assert by_layer["block1"] == by_layer["transition1"] == {0.5**6}
    assert by_layer["stem_conv"] == by_layer["stem_norm"] == {0.5**7}


@pytest.mark.parametrize(
    ("name", "layers"), [("resnet50", 1 + 4), ("efficientnet_lite0", 1 + 16 + 1)]
)
def test_every_layer_of_a_backbone_has_a_rate_of_its_own(name, layers):
    rates = layer_rates(shapes(backbone_name=name, attention="none"), 0.9)
    assert len(set(jax.tree.leaves(rates["backbone"]))) == layers
    assert max(jax.tree.leaves(rates["backbone"])) == 0.9
    stem = rates["backbone"]["stem_conv"]["kernel"]
    assert stem == min(jax.tree.leaves(rates)) == pytest.approx(0.9**layers)


def test_the_rate_of_a_layer_scales_its_update():
    params = {name: {"stem": {"kernel": jnp.ones(3)}} for name in ("backbone", "norm")}
    opt = optimizer(weight_decay=0.0, layer_decay=0.25)
    updates, _ = opt.update(jax.tree.map(jnp.ones_like, params), opt.init(params), params)
    np.testing.assert_allclose(updates["norm"]["stem"]["kernel"], -1e-2, rtol=1e-4)
    np.testing.assert_allclose(updates["backbone"]["stem"]["kernel"], -0.25e-2, rtol=1e-4)
    with pytest.raises(ValueError, match=r"layer_decay is 1\.5"):
        optimizer(layer_decay=1.5)
