"""DenseNet-121 in plain Flax, and that its fused form is the same function of the same variables.

In float64, so that what differs is not rounding; for each platform, computed on a CPU.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from backbone_checks import assert_bfloat16_keeps_float32, random_image, random_variables
from jax.sharding import PartitionSpec as P

from jaxcovid.models.densenet import DenseNet
from jaxcovid.models.fused.densenet import FusedDenseNet
from jaxcovid.runtime import sharding
from jaxcovid.runtime.sharding import BATCH_AXIS

NARROW = {"growth_rate": 4, "depths": (1, 2)}
FUSED = {
    "cpu": partial(FusedDenseNet, "cpu", chunk_bytes=1),  # image by image
    "gpu": partial(FusedDenseNet, "gpu"),
    "tpu": partial(FusedDenseNet, "tpu"),
}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def evaluate(model, variables, image, *, train):
    """Maps, their gradients by parameters and image, and the running moments afterwards.

    The gradients are those of a sum that weighs every value of every map differently.
    """

    def loss(params, image):
        maps, updates = model.apply(
            {**variables, "params": params}, image, train=train, mutable=["batch_stats"]
        )
        return sum(map(weighted_sum, maps)), (maps, updates)

    gradients = jax.grad(loss, argnums=(0, 1), has_aux=True)
    return jax.jit(gradients)(variables["params"], image)


def weighted_sum(x):
    return (x * jnp.cos(jnp.arange(x.size)).reshape(x.shape)).sum()


def assert_same(one, other, tolerance=1e-9):
    """Relative to the largest value of each array."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype == jnp.float64
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.fixture(scope="module")
def plain():
    """What the plain form gives, computed once for each shape and mode."""
    results = {}

    def evaluate_once(shape, train):
        if (shape, train) not in results:
            model = DenseNet(**NARROW, dtype=jnp.float64)
            arguments = model, random_variables(model), random_image(*shape)
            results[shape, train] = evaluate(*arguments, train=train)
        return results[shape, train]

    return evaluate_once


@pytest.mark.parametrize("platform", FUSED)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shape", [(4, 32, 32, 1), (3, 50, 37, 3), (2, 65, 31, 1)])
def test_both_forms_are_one_function(platform, train, shape, plain):
    model = FUSED[platform](**NARROW, dtype=jnp.float64)
    fused = evaluate(model, random_variables(model), random_image(*shape), train=train)
    assert_same(fused, plain(shape, train))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_both_forms_share_moments_over_devices(platform):
    mesh = sharding.make_mesh(2)
    image = random_image(4, 32, 32, 1)

    def on_two_devices(model):
        variables = random_variables(model)

        def per_device(image):
            gradients, (maps, updates) = evaluate(model, variables, image, train=True)
            return jax.lax.psum(gradients[0], BATCH_AXIS), gradients[1], maps, updates

        rows = P(BATCH_AXIS)
        return jax.jit(
            jax.shard_map(
                per_device,
                mesh=mesh,
                in_specs=rows,
                out_specs=(P(), rows, rows, P()),
                check_vma=False,
            )
        )(image)

    options = {**NARROW, "dtype": jnp.float64, "axis_name": BATCH_AXIS}
    assert_same(on_two_devices(FUSED[platform](**options)), on_two_devices(DenseNet(**options)))


def test_both_forms_start_from_the_same_variables():
    for options in (NARROW, {}):
        shapes = [
            jax.eval_shape(
                partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, 64, 64, 1))
            )
            for model in (DenseNet(**options), FusedDenseNet("cpu", **options))
        ]
        assert shapes[0] == shapes[1]
    image = jnp.zeros((1, 32, 32, 1), jnp.float32)
    plain, fused = (
        jax.jit(partial(model.init, train=False))(jax.random.key(3), image)
        for model in (DenseNet(**NARROW), FusedDenseNet("cpu", **NARROW))
    )
    jax.tree.map(np.testing.assert_array_equal, plain, fused)
    assert {x.dtype for x in jax.tree.leaves(plain)} == {jnp.dtype("float32")}


def test_the_plain_form_shows_the_map_for_heatmaps():
    model = DenseNet(**{**NARROW, "depths": (1, 2, 1)}, dtype=jnp.float64)
    variables, image = random_variables(model), random_image(2, 64, 64, 1)

    def total(change):
        """The sum of all features if the map changes, and the map."""
        maps, shown = model.apply(
            {**variables, "perturbations": {"transition2": {"explained": change}}},
            image,
            train=False,
            mutable=["maps"],
        )
        return maps[-1].sum(), shown["maps"]["transition2"]["explained"][0]

    shape = (2, 8, 8, 6 + 2 * 4)  # of the last block but one
    gradient, shown = jax.jit(jax.grad(total, has_aux=True))(jnp.zeros(shape))
    assert shown.min() == 0 < shown.max()  # after the ReLU
    assert np.ptp(np.asarray(gradient)) > 0


@pytest.mark.parametrize("model", [DenseNet, FUSED["cpu"], FUSED["gpu"]])
def test_bfloat16_keeps_float32_variables_and_moments(model):
    assert_bfloat16_keeps_float32(partial(model, **NARROW), 32)


@pytest.mark.long
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_both_forms_of_densenet_121_are_one_function(platform):
    image = random_image(2, 64, 64, 1)
    plain, fused = (
        evaluate(model, random_variables(model), image, train=True)
        for model in (DenseNet(dtype=jnp.float64), FUSED[platform](dtype=jnp.float64))
    )
    assert_same(fused, plain, tolerance=1e-7)  # 121 layers of rounding
