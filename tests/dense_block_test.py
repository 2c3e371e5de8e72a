"""The dense block's own backward pass against the block as everyone writes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcovid.models import chunks as chunks_module
from jaxcovid.models import dense_block
from jaxcovid.models.chunks import Chunks
from jaxcovid.models.normalization import Moments, batch_moments

GROWTH, DEPTH, CHANNELS = 6, 3, 10


def weights():
    rng = np.random.default_rng(0)
    wide = 4 * GROWTH

    def normal(*shape, mean=0.0):
        return jnp.asarray(mean + 0.3 * rng.standard_normal(shape), jnp.float32)

    return tuple(
        dense_block.LayerWeights(
            scale1=normal(c, mean=1.0),
            bias1=normal(c),
            kernel1=normal(1, 1, c, wide),
            scale2=normal(wide, mean=1.0),
            bias2=normal(wide),
            kernel2=normal(3, 3, wide, GROWTH),
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


def normalise(x, scale, bias, moments=None):
    mean, variance = moments or (x.mean((0, 1, 2)), x.var((0, 1, 2)))
    return (x - row(mean)) / jnp.sqrt(row(variance) + 1e-5) * row(scale) + row(bias)


def usual(x, layers, moments=None):
    """Concatenation layer by layer; also the moments of each layer's product."""
    inner = []
    for i, layer in enumerate(layers):
        one, two = moments[i] if moments else (None, None)
        y = jax.nn.relu(normalise(x, layer.scale1, layer.bias1, one))
        y = conv(y, layer.kernel1)
        inner.append(Moments(y.mean((0, 1, 2)), y.var((0, 1, 2))))
        y = jax.nn.relu(normalise(y, layer.scale2, layer.bias2, two))
        x = jnp.concatenate([x, conv(y, layer.kernel2)], -1)
    return x, Moments(x.mean((0, 1, 2)), x.var((0, 1, 2))), tuple(inner)


def loss(block, x, layers):
    """Uses every channel, and its moments, unevenly."""
    out, outer, _ = block(x, layers)
    w = jnp.asarray(np.random.default_rng(2).standard_normal(out.shape), jnp.float32)
    slope = jnp.arange(out.shape[-1], dtype=jnp.float32)
    return (out * w).sum() + (jnp.sin(slope) * outer.mean + jnp.cos(slope) * outer.variance).sum()


@pytest.fixture(params=["whole", "chunks"])
def chunks(request, monkeypatch):
    """The batch at once, and image by image."""
    if request.param == "chunks":
        monkeypatch.setattr(chunks_module, "CHUNK_BYTES", 1)
        assert Chunks(jax.ShapeDtypeStruct((4, 8, 8, 9), jnp.float32)).count == 4
    return request.param


@pytest.mark.parametrize("shape", [(4, 8, 8), (3, 7, 5), (4, 2, 3)])
def test_training_and_its_gradients_are_those_of_the_usual_block(chunks, shape):
    x, layers = image_map(*shape, CHANNELS), weights()
    for found, expected in zip(
        jax.tree.leaves(jax.jit(dense_block.train)(x, layers)),
        jax.tree.leaves(usual(x, layers)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    def gradients(block):
        return jax.jit(jax.grad(lambda *args: loss(block, *args), argnums=(0, 1)))(x, layers)

    for found, expected in zip(
        jax.tree.leaves(gradients(dense_block.train)),
        jax.tree.leaves(gradients(usual)),
        strict=True,
    ):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found / scale, expected / scale, atol=2e-5)


def test_inference_takes_the_given_moments(chunks):
    x, layers = image_map(4, 8, 8, CHANNELS), weights()
    rng = np.random.default_rng(3)
    moments = [
        tuple(
            Moments(
                jnp.asarray(rng.standard_normal(n), jnp.float32),
                jnp.asarray(rng.uniform(0.5, 2, n), jnp.float32),
            )
            for n in (layer.scale1.size, layer.scale2.size)
        )
        for layer in layers
    ]
    found = jax.jit(dense_block.infer)(x, layers, moments)
    np.testing.assert_allclose(found, usual(x, layers, moments)[0], rtol=1e-4, atol=1e-4)


def test_chunks_divide_the_batch_and_fit():
    image = 64 * 64 * 256 * 4
    assert image <= chunks_module.CHUNK_BYTES
    for images in (1, 6, 7, 16):
        chunks = Chunks(jax.ShapeDtypeStruct((images, 64, 64, 256), jnp.float32))
        assert (chunks.images, chunks.count) == (1, images)
        chunks = Chunks(jax.ShapeDtypeStruct((images, 8, 8, 1024), jnp.float32))
        assert chunks.images * chunks.count == images
        assert chunks.images == images or chunks.images * 8 * 8 * 4096 <= chunks_module.CHUNK_BYTES


def test_accelerators_take_the_batch_whole(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert Chunks(jax.ShapeDtypeStruct((16, 64, 64, 256), jnp.float32)).count == 1


def test_bfloat16_keeps_float32_moments_and_gradients():
    x, layers = image_map(4, 8, 8, CHANNELS).astype(jnp.bfloat16), weights()
    out, outer, inner = dense_block.train(x, layers)
    assert out.dtype == jnp.bfloat16
    assert {m.dtype for m in jax.tree.leaves((outer, inner))} == {jnp.dtype("float32")}
    expected = batch_moments(out)
    np.testing.assert_allclose(outer.mean, expected.mean, rtol=1e-5, atol=1e-5)
    dx, gradients = jax.grad(lambda *args: loss(dense_block.train, *args), argnums=(0, 1))(
        x, layers
    )
    assert dx.dtype == jnp.bfloat16
    reference = jax.grad(lambda *args: loss(usual, *args), argnums=1)(x.astype(jnp.float32), layers)
    for found, exact in zip(jax.tree.leaves(gradients), jax.tree.leaves(reference), strict=True):
        assert found.dtype == jnp.float32
        assert np.linalg.norm(found - exact) < 0.1 * np.linalg.norm(exact)
