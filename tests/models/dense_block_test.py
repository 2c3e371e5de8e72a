"""The dense block's own backward pass against the block as everyone writes it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcovid.models.fused import dense_block, dense_block_accelerator
from jaxcovid.models.fused.chunks import Chunks
from jaxcovid.models.fused.execution import CHUNK_BYTES, Execution
from jaxcovid.models.normalization import Moments, batch_moments

GROWTH, DEPTH, CHANNELS = 6, 3, 10


def training_block(execution):
    """The block of a platform, as `fused.densenet` chooses it."""
    form = dense_block if execution.platform == "cpu" else dense_block_accelerator
    return partial(form.train, execution=execution)


def weights():
    rng = np.random.default_rng(0)
    wide = 4 * GROWTH

    def normal(*shape, mean=0.0):
        return jnp.asarray(mean + 0.3 * rng.standard_normal(shape), jnp.float32)

    return tuple(
        dense_block.LayerWeights(
            gamma1=normal(c, mean=1.0),
            beta1=normal(c),
            w1=normal(1, 1, c, wide),
            gamma2=normal(wide, mean=1.0),
            beta2=normal(wide),
            w2=normal(3, 3, wide, GROWTH),
        )
        for c in range(CHANNELS, CHANNELS + DEPTH * GROWTH, GROWTH)
    )


def image_map(*shape):
    return jnp.asarray(2 + np.random.default_rng(1).standard_normal(shape), jnp.float32)


def row(v):
    return v.reshape(1, 1, 1, -1)


def conv(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def normalise(x, gamma, beta, moments=None):
    mean, var = moments or (x.mean((0, 1, 2)), x.var((0, 1, 2)))
    return (x - row(mean)) / jnp.sqrt(row(var) + 1e-5) * row(gamma) + row(beta)


def usual(x, layers, moments=None):
    """Concatenation layer by layer; also the moments of both normalisations of each layer."""
    used = []
    for i, layer in enumerate(layers):
        one, two = moments[i] if moments else (None, None)
        outer = Moments(x.mean((0, 1, 2)), x.var((0, 1, 2)))
        y = jax.nn.relu(normalise(x, layer.gamma1, layer.beta1, one))
        y = conv(y, layer.w1)
        used.append((outer, Moments(y.mean((0, 1, 2)), y.var((0, 1, 2)))))
        y = jax.nn.relu(normalise(y, layer.gamma2, layer.beta2, two))
        x = jnp.concatenate([x, conv(y, layer.w2)], -1)
    return x, Moments(x.mean((0, 1, 2)), x.var((0, 1, 2))), tuple(used)


def loss(block, x, layers):
    """Uses every channel, and its moments, unevenly."""
    out, outer, _ = block(x, layers)
    w = jnp.asarray(np.random.default_rng(2).standard_normal(out.shape), jnp.float32)
    slope = jnp.arange(out.shape[-1], dtype=jnp.float32)
    return (out * w).sum() + (jnp.sin(slope) * outer.mean + jnp.cos(slope) * outer.var).sum()


@pytest.mark.parametrize("shape", [(4, 8, 8), (3, 7, 5), (4, 2, 3)])
def test_training_and_its_gradients_are_those_of_the_usual_block(execution, shape):
    x, layers = image_map(*shape, CHANNELS), weights()
    train = training_block(execution)
    for actual, expected in zip(
        jax.tree.leaves(jax.jit(train)(x, layers)),
        jax.tree.leaves(jax.jit(usual)(x, layers)),
        strict=True,
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)

    def gradients(block):
        return jax.jit(jax.grad(lambda *args: loss(block, *args), argnums=(0, 1)))(x, layers)

    for actual, expected in zip(
        jax.tree.leaves(gradients(train)), jax.tree.leaves(gradients(usual)), strict=True
    ):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(actual / scale, expected / scale, atol=2e-5)


def test_inference_takes_the_given_moments(execution):
    x, layers = image_map(4, 8, 8, CHANNELS), weights()
    rng = np.random.default_rng(3)
    moments = [
        tuple(
            Moments(
                jnp.asarray(rng.standard_normal(n), jnp.float32),
                jnp.asarray(rng.uniform(0.5, 2, n), jnp.float32),
            )
            for n in (layer.gamma1.size, layer.gamma2.size)
        )
        for layer in layers
    ]
    actual = jax.jit(partial(dense_block.infer, execution=execution))(x, layers, moments)
    np.testing.assert_allclose(actual, jax.jit(usual)(x, layers, moments)[0], rtol=1e-4, atol=1e-4)


def chunks_of(*shape, chunk_bytes=CHUNK_BYTES):
    return Chunks(jax.ShapeDtypeStruct(shape, jnp.float32), Execution("cpu", None, chunk_bytes))


def test_chunks_divide_the_batch_and_fit():
    assert 64 * 64 * 256 * 4 <= CHUNK_BYTES < 2 * 64 * 64 * 256 * 4
    for images in (1, 6, 7, 16):
        chunks = chunks_of(images, 64, 64, 256)
        assert (chunks.images, chunks.count) == (1, images)
        chunks = chunks_of(images, 8, 8, 1024)
        assert chunks.images * chunks.count == images
        assert chunks.images == images or chunks.images * 8 * 8 * 4096 <= CHUNK_BYTES


def test_an_image_larger_than_a_chunk_is_taken_alone_and_none_takes_the_batch_whole():
    assert chunks_of(4, 8, 8, 9, chunk_bytes=1).count == 4
    assert chunks_of(16, 64, 64, 256, chunk_bytes=None).count == 1


def test_bfloat16_keeps_float32_moments_and_gradients(execution):
    x, layers = image_map(4, 8, 8, CHANNELS).astype(jnp.bfloat16), weights()
    train = training_block(execution)
    out, outer, used = jax.jit(train)(x, layers)
    assert out.dtype == jnp.bfloat16
    assert {m.dtype for m in jax.tree.leaves((outer, used))} == {jnp.dtype("float32")}
    expected = batch_moments(out)
    # XLA may leave out the rounding of a product whose moments it computes in the same loop.
    np.testing.assert_allclose(outer.mean, expected.mean, rtol=1e-3, atol=1e-3)
    dx, dlayers = jax.jit(jax.grad(lambda *args: loss(train, *args), argnums=(0, 1)))(x, layers)
    assert dx.dtype == jnp.bfloat16
    usual_gradients = jax.jit(jax.grad(lambda *args: loss(usual, *args), argnums=1))
    reference = usual_gradients(x.astype(jnp.float32), layers)
    for actual, exact in zip(jax.tree.leaves(dlayers), jax.tree.leaves(reference), strict=True):
        assert actual.dtype == jnp.float32
        assert np.linalg.norm(actual - exact) < 0.1 * np.linalg.norm(exact)
