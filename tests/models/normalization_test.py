"""Batch normalisation against Flax's own, which is its definition."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcovid.models.fused.normalization import join_moments, pool_moments
from jaxcovid.models.normalization import BatchNorm, Moments, batch_moments


def flax_norm(**options):
    return nn.BatchNorm(momentum=0.9, epsilon=1e-5, use_fast_variance=False, **options)


def random_variables(channels):
    rng = np.random.default_rng(0)
    return {
        "params": {
            "scale": rng.uniform(0.5, 1.5, channels).astype(np.float32),
            "bias": rng.normal(size=channels).astype(np.float32),
        },
        "batch_stats": {
            "mean": rng.normal(size=channels).astype(np.float32),
            "var": rng.uniform(0.5, 1.5, channels).astype(np.float32),
        },
    }


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_its_gradients_and_running_moments_are_those_of_flax(train):
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 5, 5, 7))
    weights = jax.random.normal(jax.random.key(1), x.shape)
    variables = random_variables(7)

    def evaluate(apply):
        def loss(params, x):
            y, updates = apply({**variables, "params": params}, x, mutable=["batch_stats"])
            return (y * weights).sum(), (y, updates)

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(variables["params"], x)

    ours = evaluate(lambda *args, **kw: BatchNorm().apply(*args, train=train, **kw))
    expected = evaluate(flax_norm(use_running_average=not train).apply)
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_moments_of_parts_make_those_of_the_whole():
    x = 5 + jax.random.normal(jax.random.key(0), (6, 4, 4, 8))
    whole = batch_moments(x)
    parts = [batch_moments(x[i : i + 2]) for i in (0, 2, 4)]
    pooled = pool_moments(Moments(*map(jnp.stack, zip(*parts, strict=True))))
    joined = join_moments(batch_moments(x[..., :3]), batch_moments(x[..., 3:]))
    for moments in (pooled, joined):
        np.testing.assert_allclose(moments.mean, whole.mean, rtol=1e-5)
        np.testing.assert_allclose(moments.var, whole.var, rtol=1e-5)
