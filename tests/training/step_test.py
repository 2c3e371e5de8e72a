"""The step, the state, the losses, the optimizer and the devices."""

import functools
import json
import math
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from jax.flatten_util import ravel_pytree

from jaxcovid.data.labels import Task
from jaxcovid.inference.forward import jit_forward
from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.runtime import devices as machine
from jaxcovid.runtime import sharding
from jaxcovid.training import step
from jaxcovid.training.compilation import compile_train_step, jit_train_step
from jaxcovid.training.optimizer import make_optimizer, make_schedule
from jaxcovid.training.progress import TrainingError, check_finite
from jaxcovid.training.state import jit_init_state
from jaxcovid.training.validation import validation_scores

MODEL = DeepCTNet(growth_rate=8, depths=(2, 2, 2, 2))
SIZE = 64


DESCENT = optax.sgd(1e-3)
PLAIN = {"weight_decay": 0.0, "head_lr_multiplier": 1.0, "accumulate_steps": 1}


@functools.cache  # the same options are the same optimizer, so that its step is compiled once
def optimizer(**options):
    return make_optimizer(optax.constant_schedule(1e-3), **{**PLAIN, **options})


def batch(seed, rows=16):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(size=(rows, SIZE, SIZE, 1)).astype(np.float32),
        "target": rng.integers(0, 2, (rows, 1)).astype(np.float32),
    }


@functools.cache
def jit_initial(mesh, opt, model, fsdp, size):
    return jit_init_state(mesh, fsdp=fsdp, model=model, optimizer=opt, image_size=size, seed=0)


def initial(mesh, opt, model=MODEL, fsdp=1, size=SIZE):
    return jit_initial(mesh, opt, model, fsdp, size)()


def jit_step(mesh, opt, batch_norm):
    weights = np.ones((2, 1), np.float32)
    return jit_train_step(mesh, model=MODEL, optimizer=opt, weights=weights, batch_norm=batch_norm)


_compiled = {}  # train steps by what they are compiled for


def each_step(devices, batches, *, model=MODEL, size=SIZE, opt=None, batch_norm="global", fsdp=1):
    """After each step its numbers and the state, which the next step takes."""
    opt, mesh = opt or optimizer(), sharding.make_mesh(devices)
    state = initial(mesh, opt, model, fsdp, size)
    key = (devices, batches[0]["image"].shape, model, opt, batch_norm, fsdp)
    if key not in _compiled:
        _compiled[key] = compile_train_step(
            mesh,
            state,
            sharding.place_batch(batches[0], mesh),
            fingerprint="",
            folder=None,
            model=model,
            optimizer=opt,
            weights=np.ones((2, 1), np.float32),
            batch_norm=batch_norm,
        )
    step_fn = _compiled[key]
    for rows in batches:
        state, numbers = step_fn(state, sharding.place_batch(rows, mesh))
        yield numbers, state


def train(devices, steps, batch_norm="global", rows=16, opt=None, seed=0, fsdp=1):
    """Losses and gradient norms of a few steps, and the last state."""
    batches = [batch(seed + i, rows) for i in range(steps)]
    found = []
    for numbers, after in each_step(devices, batches, opt=opt, batch_norm=batch_norm, fsdp=fsdp):
        found.append((float(numbers["loss"]), float(numbers["gradient_norm"])))
        state = after
    return np.array(found), jax.device_get(state)


def first_gradients(devices, seed):
    """All gradients of one batch, as one vector: Adam's first mean is a tenth of them."""
    _, state = train(devices, 1, seed=seed)
    return 10 * optax.tree.get(state.opt_state, "mu")


def test_eight_devices_equal_one():
    assert jax.device_count() == 8
    # Not batch 0: there a ReLU whose input is zero but for rounding opens on one side only, which
    # moves the gradient by 1.6e-3, all of it from a few pixels of one image.
    for seed in (1, 2):
        one, eight = first_gradients(1, seed), first_gradients(8, seed)
        assert np.linalg.norm(one - eight) < 1e-5 * np.linalg.norm(one)


@pytest.mark.long  # shows that what differs in float32, 1e-3 at times, is rounding and no mistake
def test_eight_devices_equal_one_in_double_precision():
    program = pathlib.Path(__file__).with_name("double_precision.py")
    process = runs.run([sys.executable, str(program)])
    assert process.returncode == 0, process.stderr
    whole, sharded = map(json.loads, process.stdout.splitlines())
    assert (whole["fsdp"], sharded["fsdp"]) == (1, 8)
    for away in (whole, sharded):
        assert max(away["losses"], away["gradients"], away["parameters"]) < 1e-12


@pytest.fixture(scope="module")
def one_device():
    return train(1, 20, opt=DESCENT, seed=1)


# Eight devices, in groups that share parameters or not, are what the others are parts of.
@pytest.mark.parametrize(
    ("devices", "fsdp"),
    [(8, 1), (8, 2), *(pytest.param(*n, marks=pytest.mark.long) for n in ((2, 1), (4, 4), (8, 8)))],
)
def test_twenty_steps_on_any_number_of_devices(devices, fsdp, one_device):
    numbers, state = train(devices, 20, opt=DESCENT, seed=1, fsdp=fsdp)
    np.testing.assert_allclose(numbers[:, 0], one_device[0][:, 0], atol=1e-4)
    first, wanted = (ravel_pytree(s.params)[0] for s in (state, one_device[1]))
    assert np.linalg.norm(first - wanted) < 1e-4 * np.linalg.norm(wanted)


def test_a_sharded_state_is_split_and_others_are_whole():
    mesh, opt = sharding.make_mesh(8), optimizer()
    state = initial(mesh, opt, fsdp=4)
    moment = optax.tree.get(state.opt_state, "mu")
    assert moment.addressable_data(0).shape == (moment.shape[0] // 4,)
    kernel = state.params["backbone"]["block1"]["layer1"]["conv2"]["kernel"]
    assert kernel.addressable_data(0).size == kernel.size // 4
    on_one = sum(x.addressable_data(0).size for x in jax.tree.leaves(state.params))
    assert on_one < 0.5 * sum(x.size for x in jax.tree.leaves(state.params))
    assert all(x.is_fully_replicated for x in jax.tree.leaves((state.step, state.batch_stats)))
    with pytest.raises(
        ValueError, match="fsdp is 3, which does not divide 8 devices; use one of 1"
    ):
        sharding.shard_state({}, mesh, 3)


def test_a_forward_pass_goes_through_every_devices_rows_in_chunks():
    model = MODEL.clone(chunk_bytes=1)  # image by image, as maps of 256x256 go
    found = []
    for devices in (1, 8):
        mesh = sharding.make_mesh(devices)
        state = initial(mesh, optimizer())
        image = sharding.place_batch(batch(0), mesh)["image"]
        found.append(jit_forward(mesh, model=model)(state.variables, image))
    assert found[0].shape == (16, 1)
    assert np.ptp(found[0]) > 0
    np.testing.assert_allclose(*map(np.asarray, found), rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "batch_norm"),
    [
        *((MODEL, batch_norm) for batch_norm in ("global", "per_device", "groups:4")),
        pytest.param(DeepCTNet(), "global", marks=pytest.mark.long),
    ],
    ids=["global", "per_device", "groups:4", "DenseNet-121"],
)
def test_what_eight_devices_tell_each_other(model, batch_norm):
    """Counted in the compiled step: all-reduces, their bytes, and nothing else."""
    mesh, opt = sharding.make_mesh(8), optimizer()
    state = initial(mesh, opt, model)
    program = jit_train_step(
        mesh, model=model, optimizer=opt, weights=np.ones((2, 1), np.float32), batch_norm=batch_norm
    )
    text = program.lower(state, sharding.place_batch(batch(0), mesh)).compile().as_text()
    assert not re.search("all-gather|all-to-all|reduce-scatter|collective-permute", text)
    results = re.findall(r"= (.*) all-reduce(?:-start)?\(", text)
    sizes = [
        sum(math.prod(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]", result))
        for result in results  # of one array, or of several together
    ]
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    running = sum(x.size for x in jax.tree.leaves(state.batch_stats))
    # Buckets of gradients, which XLA for a CPU may join; running moments and metrics go with one.
    once = 1 if model is MODEL else 9
    shared = parameters + running
    if batch_norm == "per_device":
        assert len(sizes) <= once
        assert shared <= sum(sizes) <= shared + 5
    else:
        # As many maps are normalised for the first time as there are normalisations: the layers of
        # a dense block share the moments of its channels.
        maps = len(jax.tree.leaves(state.batch_stats)) // 2
        assert len(sizes) <= 2 * maps + once
        assert shared <= sum(sizes) <= shared + 3 * running + 5


@pytest.mark.parametrize(
    ("slices", "batch_norm"),
    [(2, "global"), pytest.param(4, "groups:2", marks=pytest.mark.long)],
)
def test_slices_change_nothing_but_rounding(slices, batch_norm):
    """Two steps of eight devices with one slice and with several."""
    results = []
    for n in (1, slices):
        mesh = sharding.make_mesh(8, slices=n)
        step_fn = jit_step(mesh, DESCENT, batch_norm)
        state = initial(mesh, DESCENT)
        for seed in (1, 2):
            state, numbers = step_fn(state, sharding.place_batch(batch(seed), mesh))
        results.append((float(numbers["loss"]), ravel_pytree(jax.device_get(state.params))[0]))
    (loss, params), (loss_of_slices, params_of_slices) = results
    assert loss_of_slices == pytest.approx(loss, abs=1e-5)
    assert np.linalg.norm(params_of_slices - params) < 1e-6 * np.linalg.norm(params)


def test_per_device_batch_norm_differs_and_equals_global_on_one_device():
    one, _ = train(1, 2, "global")
    np.testing.assert_allclose(train(1, 2, "per_device")[0], one, rtol=1e-5)
    eight, state = train(8, 2, "per_device", rows=32)
    reference, _ = train(8, 2, "global", rows=32)
    assert np.isfinite(eight).all()
    assert not np.allclose(eight[:, 0], reference[:, 0], rtol=1e-3)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.batch_stats))


def test_a_group_normalises_as_two_devices_do():
    """Eight devices in groups of four that see the rows of a batch twice, and all eight of them."""
    rows = batch(0, 16)
    twice = {name: np.concatenate([v, v]) for name, v in rows.items()}

    def trained(batch_norm, rows):
        mesh, opt = sharding.make_mesh(8), optimizer()
        step_fn = jit_step(mesh, opt, batch_norm)
        state, numbers = step_fn(initial(mesh, opt), sharding.place_batch(rows, mesh))
        moments = ravel_pytree(state.batch_stats)[0]
        return np.asarray(moments), np.asarray(optax.tree.get(state.opt_state, "mu")), numbers

    def difference(one, other):
        return np.linalg.norm(one - other) / np.linalg.norm(other)

    whole, grouped, apart = (
        trained("global", rows),
        trained("groups:4", twice),
        trained("per_device", twice),
    )
    assert float(grouped[2]["loss"]) == pytest.approx(float(whole[2]["loss"]), abs=1e-5)
    for i in range(2):  # running moments and gradients
        assert difference(grouped[i], whole[i]) < 5e-3
        assert difference(apart[i], whole[i]) > 3 * difference(grouped[i], whole[i])


def test_per_device_batch_norm_is_that_of_pmap():
    """The gradients and running moments that a step written with `jax.pmap` averages."""
    opt, mesh = optimizer(), sharding.make_mesh(8)
    state, rows = initial(mesh, opt), batch(1, 32)

    def averaged(variables, batch):
        own = step.gradients(variables, batch, model=MODEL, weights=jnp.ones((2, 1)))
        return jax.lax.pmean(own, "devices")

    variables = jax.device_get(state.variables)
    by_device = {k: v.reshape(8, 4, *v.shape[1:]) for k, v in rows.items()}
    found = jax.pmap(averaged, "devices", in_axes=(None, 0))(variables, by_device)
    gradients, batch_stats, numbers = jax.tree.map(lambda x: np.asarray(x[0]), found)
    step_fn = jit_train_step(
        mesh, model=MODEL, optimizer=opt, weights=jnp.ones((2, 1)), batch_norm="per_device"
    )
    state, ours = step_fn(state, sharding.place_batch(rows, mesh))
    assert float(ours["loss"]) == pytest.approx(float(numbers["loss"]), abs=1e-6)
    wanted = ravel_pytree(gradients)[0]
    moment = 10 * optax.tree.get(state.opt_state, "mu")[: wanted.size]
    assert np.linalg.norm(moment - wanted) < 1e-5 * np.linalg.norm(wanted)
    for a, b in zip(*map(jax.tree.leaves, (batch_stats, state.batch_stats)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_step_learns_moves_the_moments_and_counts():
    opt = optimizer()
    mesh = sharding.make_mesh(1)
    state = initial(mesh, opt)
    before = jax.device_get(state)
    step_fn = jit_train_step(
        mesh, model=MODEL, optimizer=opt, weights=np.ones((2, 1), np.float32), batch_norm="global"
    )
    same = sharding.place_batch(batch(0), mesh)
    values = []
    for _ in range(8):
        state, numbers = step_fn(state, same)
        values.append(float(numbers["loss"]))
    assert values[-1] < 0.7 * values[0]
    assert int(state.step) == 8
    after = jax.device_get(state)
    for name in ("params", "batch_stats"):
        moved = jax.tree.map(
            lambda a, b: not np.array_equal(a, b), getattr(before, name), getattr(after, name)
        )
        assert all(jax.tree.leaves(moved)), name


def test_the_state_is_donated():
    opt, mesh = optimizer(), sharding.make_mesh(1)
    state = initial(mesh, opt)
    step_fn = jit_train_step(
        mesh, model=MODEL, optimizer=opt, weights=np.ones((2, 1), np.float32), batch_norm="global"
    )
    step_fn(state, sharding.place_batch(batch(0), mesh))
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))


def test_accumulation_updates_every_second_step():
    opt = optimizer(accumulate_steps=2)
    start = initial(sharding.make_mesh(1), opt)
    _, first = train(1, 1, opt=opt)
    _, second = train(1, 2, opt=opt)
    leaves = [np.asarray(jax.tree.leaves(s.params)[0]) for s in (start, first, second)]
    np.testing.assert_array_equal(leaves[0], leaves[1])
    assert not np.array_equal(leaves[1], leaves[2])


def test_the_last_update_is_made_of_the_steps_that_are_left():
    """Seven steps in threes: of 0 to 2, of 3 to 5, and of 6 alone."""
    gradients = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    once, accumulated = optimizer(), optimizer(accumulate_steps=3, total_steps=7)
    wanted = {"bias": jnp.ones(3)}
    state = once.init(wanted)
    for mean in (gradients[:3].mean(0), gradients[3:6].mean(0), gradients[6]):
        updates, state = once.update({"bias": mean}, state, wanted)
        wanted = optax.apply_updates(wanted, updates)
    params = {"bias": jnp.ones(3)}
    state = accumulated.init(params)
    moved = []
    for gradient in gradients:
        updates, state = accumulated.update({"bias": gradient}, state, params)
        params = optax.apply_updates(params, updates)
        moved.append(bool(jnp.any(updates["bias"])))
    assert moved == [False, False, True, False, False, True, True]
    np.testing.assert_allclose(params["bias"], wanted["bias"], rtol=1e-6)


def test_more_accumulated_steps_than_there_are_is_refused():
    optimizer(accumulate_steps=120, total_steps=120)
    with pytest.raises(ValueError, match=r"accumulate_steps is 121, .* 120 steps, .* 1 to 120"):
        optimizer(accumulate_steps=121, total_steps=120)


def unknown_batch():
    """Three findings of which the devices know unequal shares, one of the first outputs' none."""
    rng = np.random.default_rng(3)
    target = rng.integers(0, 2, (16, 3)).astype(np.float32)
    target[:5, 0] = target[1:12, 1] = target[2, 2] = -1
    return {"image": batch(3)["image"], "target": target}


def first_numbers(devices, rows, weights):
    """What the log says of one step of findings, and the probabilities that it came from."""
    model, opt = DeepCTNet(outputs=3, growth_rate=8, depths=(2,) * 4), optimizer()
    mesh = sharding.make_mesh(devices)
    state = initial(mesh, opt, model)
    logits, _ = model.apply(
        jax.device_get(state.variables), rows["image"], train=True, mutable=["batch_stats"]
    )
    probabilities = np.asarray(model.probabilities(logits))
    step_fn = jit_train_step(mesh, model=model, optimizer=opt, weights=weights, batch_norm="global")
    with jax.numpy_rank_promotion("allow"):
        _, numbers = step_fn(state, sharding.place_batch(rows, mesh))
    return jax.device_get(numbers), probabilities


@pytest.mark.parametrize("devices", [1, 8])
def test_unknown_targets_are_in_neither_the_logs_accuracy_nor_its_loss(devices):
    rows, weights = unknown_batch(), np.array([[0.6, 1, 2], [3, 1, 0.5]], np.float32)
    numbers, probabilities = first_numbers(devices, rows, weights)
    assert set(numbers) >= {"loss", "accuracy", "gradient_norm"}
    assert not any("unknown" in name for name in numbers)
    known = rows["target"][:, 0] >= 0
    right = (probabilities[:, 0] > 0.5) == (rows["target"][:, 0] > 0.5)
    assert numbers["accuracy"] == pytest.approx(right[known].mean(), abs=1e-6)
    of_validation = validation_scores(
        1,
        probabilities,
        rows["target"],
        task=Task("multilabel", ("a", "b", "c")),
        loss_weights=weights,
    ).loss
    assert numbers["loss"] == pytest.approx(of_validation, rel=1e-4)
    by_hand = -np.where(
        rows["target"] > 0.5,
        weights[1] * np.log(probabilities),
        weights[0] * np.log1p(-probabilities),
    )
    assert of_validation == pytest.approx(by_hand[rows["target"] >= 0].mean(), rel=1e-5)


def test_a_batch_that_knows_nothing_has_no_loss_and_no_accuracy():
    rows = unknown_batch()
    rows["target"][:] = -1
    numbers, _ = first_numbers(8, rows, np.ones((2, 3), np.float32))
    assert numbers["loss"] == 0
    assert np.isnan(numbers["accuracy"])
    check_finite(1, numbers, pathlib.Path("nowhere"))
    check_finite(1, {"loss": 0.4, "dice_lungs": np.nan}, pathlib.Path("nowhere"))
    for name in ("loss", "segmentation_loss", "gradient_norm"):
        with pytest.raises(TrainingError, match=f"{name} not finite at step 1"):
            check_finite(1, {**numbers, name: np.nan}, pathlib.Path("nowhere"))


def test_weight_decay_shrinks_kernels_only():
    opt = make_optimizer(optax.constant_schedule(0.1), **{**PLAIN, "weight_decay": 0.5})
    params = {"kernel": jnp.ones((2, 2)), "scale": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = opt.update(zeros, opt.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05)
    np.testing.assert_array_equal(updates["scale"], 0)


def test_the_head_has_its_own_rate():
    params = {"backbone": {"kernel": jnp.ones((2, 2))}, "classifier": {"kernel": jnp.ones((2, 2))}}
    opt = make_optimizer(optax.constant_schedule(0.1), **{**PLAIN, "head_lr_multiplier": 0.01})
    updates, _ = opt.update(jax.tree.map(jnp.ones_like, params), opt.init(params), params)
    np.testing.assert_allclose(updates["backbone"]["kernel"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["classifier"]["kernel"], -0.001, rtol=1e-5)
    with pytest.raises(ValueError, match="head_lr_multiplier matches no parameter"):
        opt.init({"backbone": params["backbone"]})


def test_schedules():
    constant = make_schedule(learning_rate=1e-5, schedule="constant", updates=10)
    assert constant(0) == constant(9) == 1e-5
    cycle = make_schedule(learning_rate=1e-3, schedule="one_cycle", updates=100)
    rates = np.array([cycle(i) for i in range(101)])
    assert 20 < rates.argmax() < 40
    assert np.isclose(rates.max(), 1e-3)
    assert rates[-1] < 1e-6 < rates[0] < 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 0.0, "schedule": "constant"},
        {"learning_rate": 1e-3, "schedule": "linear"},
    ],
)
def test_bad_schedules(options):
    with pytest.raises(ValueError, match=r"optimizer\."):
        make_schedule(updates=10, **options)


@pytest.mark.parametrize(
    "options", [{"weight_decay": -1.0}, {"accumulate_steps": 0}, {"head_lr_multiplier": 0.0}]
)
def test_bad_optimizers(options):
    with pytest.raises(ValueError, match=r"optimizer\."):
        optimizer(**options)


def test_a_batch_that_does_not_divide_names_the_fix():
    mesh = sharding.make_mesh(8)
    with pytest.raises(
        ValueError, match="batch_size 30 is not divisible by 8 devices; use 24 or 32"
    ):
        sharding.check_batch_size(30, mesh)
    with pytest.raises(ValueError, match="use 8"):
        sharding.check_batch_size(3, mesh)
    sharding.check_batch_size(16, mesh)


def test_how_many_devices_normalise_together():
    mesh = sharding.make_mesh(8)
    assert step.devices_together("global", mesh) == 8
    assert step.devices_together("per_device", mesh) == 1
    assert step.devices_together("groups:4", mesh) == 4
    for batch_norm in ("local", "groups", "groups:", "groups:x"):
        with pytest.raises(ValueError, match="use one of global, per_device, groups:N"):
            step.devices_together(batch_norm, mesh)
    for size in (3, 0, 16):
        message = f"groups:N is {size}, which does not divide 8 devices; use one of 1, 2, 4, 8"
        with pytest.raises(ValueError, match=message):
            step.devices_together(f"groups:{size}", mesh)


def test_a_cuda_install_on_the_cpu_is_a_loud_warning(monkeypatch, caplog):
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: name)
    monkeypatch.delenv("JAX_PLATFORMS")
    machine.warn_of_cpu()
    assert "FELL BACK TO THE CPU" in caplog.text
    caplog.clear()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    machine.warn_of_cpu()
    assert "FELL BACK" not in caplog.text
