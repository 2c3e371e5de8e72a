"""The losses of representations: beside NumPy, and the same step on any number of devices."""

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.models.representation_net import ContrastiveNet, DistillationNet, Teacher
from jaxcovid.runtime import sharding
from jaxcovid.training.compilation import jit_train_step
from jaxcovid.training.optimizer import make_optimizer, make_schedule
from jaxcovid.training.representation_losses import distillation, vicreg
from jaxcovid.training.state import jit_init_state
from jaxcovid.workdir.checkpoint_facts import Validation

NARROW = {"growth_rate": 4, "depths": (1, 2, 2, 1)}
SIZE = 64


def test_vicreg_is_as_published():
    embeddings = np.random.default_rng(0).normal(0, (0.3, 0.6, 1.5), (6, 2, 3))
    left, right = embeddings[:, 0], embeddings[:, 1]
    invariance = ((left - right) ** 2).mean()
    variance, covariance = 0.0, 0.0
    for view in (left, right):
        variance += np.maximum(0, 1 - np.sqrt(view.var(0, ddof=1) + 1e-4)).mean() / 2
        matrix = np.cov(view, rowvar=False)
        covariance += (matrix[~np.eye(3, dtype=bool)] ** 2).sum() / 3
    loss, metrics = vicreg(embeddings.astype(np.float32))
    expected = {
        "loss": 25 * invariance + 25 * variance + covariance,
        "invariance": invariance,
        "variance": variance,
        "covariance": covariance,
    }
    assert {name: float(x) for name, x in metrics.items()} == pytest.approx(expected, rel=1e-5)
    assert loss == metrics["loss"]


def test_embeddings_that_are_all_the_same_are_no_solution():
    loss, metrics = vicreg(np.ones((4, 2, 8), np.float32))
    assert metrics["invariance"] == metrics["covariance"] == 0
    np.testing.assert_allclose(loss, 25 * (1 - 1e-2), rtol=1e-5)
    gradient = jax.grad(lambda x: vicreg(x)[0])(np.ones((4, 2, 8), np.float32))
    assert np.isfinite(gradient).all()


def test_distillation_is_the_mean_over_targets():
    rng = np.random.default_rng(0)
    targets = {"a_average": rng.normal(size=(4, 5)), "a_map": rng.normal(size=(4, 2, 2, 5))}
    students = {name: rng.normal(size=x.shape) for name, x in targets.items()}
    loss, metrics = distillation(students, targets)
    errors = {name: ((students[name] - x) ** 2).mean() for name, x in targets.items()}
    expected = {**errors, "loss": np.mean([*errors.values()])}
    assert {name: float(x) for name, x in metrics.items()} == pytest.approx(expected, rel=1e-5)
    assert loss == metrics["loss"]


def test_a_representation_is_ranked_by_its_loss():
    nan = float("nan")
    assert Validation(2, nan, 0.3).score > Validation(1, nan, 0.4).score
    assert Validation(1, 0.8, 0.4).score == 0.8


def contrastive():
    return ContrastiveNet(width=32, **NARROW), (8, 2, SIZE, SIZE, 1), {}


def distilling():
    taught = DeepCTNet(growth_rate=8, depths=(1, 1, 1, 1))
    image = np.zeros((1, SIZE, SIZE, 1), np.float32)
    frozen = jax.jit(lambda key: taught.init(key, image, method="features"))(jax.random.key(5))
    model = DistillationNet(teachers=(Teacher("one", taught),), **NARROW)
    return model, (8, SIZE, SIZE, 1), {"one": jax.device_get(frozen)}


def two_steps(devices, model, shape, frozen):
    """The state after two steps, and their metrics."""
    mesh, rng = sharding.make_mesh(devices), np.random.default_rng(1)
    optimizer = make_optimizer(
        make_schedule(learning_rate=1e-3, schedule="constant", updates=1),
        weight_decay=0.0,
        head_lr_multiplier=2.0,
        accumulate_steps=1,
    )
    state = jit_init_state(mesh, model=model, optimizer=optimizer, image_size=SIZE, seed=0)()
    state = state.replace(frozen=jax.device_put(frozen, sharding.replicated_sharding(mesh)))
    step = jit_train_step(
        mesh,
        model=model,
        optimizer=optimizer,
        weights=np.ones((2, 1), np.float32),
        batch_norm="global",
    )
    metrics = []
    for _ in range(2):
        batch = {"image": rng.normal(size=shape).astype(np.float32)}
        state, numbers = step(state, sharding.place_batch(batch, mesh))
        metrics.append({name: float(x) for name, x in numbers.items()})
    return jax.device_get(state), metrics


@pytest.mark.parametrize("make", [contrastive, distilling])
def test_eight_devices_take_the_steps_of_one(make):
    model, shape, frozen = make()
    (one, expected), (eight, metrics) = (two_steps(n, model, shape, frozen) for n in (1, 8))
    for left, right in zip(metrics, expected, strict=True):
        assert left == pytest.approx(right, rel=2e-3)
    # Not their parameters: Adam moves those whose gradient is rounding as far as all others.
    moments, others = (ravel_pytree(state.opt_state)[0] for state in (one, eight))
    assert np.linalg.norm(others - moments) < 0.01 * np.linalg.norm(moments)
    for left, right in zip(jax.tree.leaves(frozen), jax.tree.leaves(eight.frozen), strict=True):
        np.testing.assert_array_equal(left, right)
