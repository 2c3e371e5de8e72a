"""What the tests of all backbones share."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


def random_variables(model, dtype=np.float64):
    """Variables with scales, shifts and moments that a new network does not have."""
    rng = np.random.default_rng(0)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(dtype)
        fan_in = np.prod(leaf.shape[:-1]) or 1
        return (rng.normal(size=leaf.shape) / np.sqrt(fan_in)).astype(dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def random_image(*shape, dtype=np.float64):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(dtype)


def assert_bfloat16_keeps_float32(model, side):
    """Variables and moments stay float32, and nothing is far from what float32 gives.

    Args:
      model: (dtype=) -> a backbone.
      side: of the images, px.
    """
    image = random_image(4, side, side, 1, dtype=np.float32)
    variables = random_variables(model(), np.float32)

    def train(dtype):
        apply = partial(model(dtype=dtype).apply, train=True, mutable=["batch_stats"])
        return jax.jit(apply)(variables, image)

    maps, updates = train(jnp.bfloat16)
    assert {x.dtype for x in maps} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(updates)} <= {jnp.dtype("float32")}
    exact = jax.tree.leaves(train(jnp.float32))
    for one, other in zip(jax.tree.leaves((maps, updates)), exact, strict=True):
        assert np.linalg.norm(np.float64(one) - other) < 0.05 * np.linalg.norm(other)
