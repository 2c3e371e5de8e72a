"""The train step kept as a traced program."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.models.fused import dense_block_accelerator
from jaxcovid.models.fused.dense_block import LayerWeights
from jaxcovid.models.fused.execution import Execution
from jaxcovid.runtime import sharding
from jaxcovid.training import compilation
from jaxcovid.training.optimizer import make_optimizer
from jaxcovid.training.state import jit_init_state

MODEL = DeepCTNet(growth_rate=8, depths=(2, 2, 2, 2))
OPTIMIZER = make_optimizer(
    optax.constant_schedule(1e-3), weight_decay=0.0, head_lr_multiplier=1.0, accumulate_steps=1
)
STEP = {
    "model": MODEL,
    "optimizer": OPTIMIZER,
    "weights": np.ones((2, 1), np.float32),
    "batch_norm": "global",
}


def start(devices):
    """The mesh, a new state and a batch of 8 images."""
    mesh = sharding.make_mesh(devices)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(8, 64, 64, 1)).astype(np.float32),
        "target": rng.integers(0, 2, (8, 1)).astype(np.float32),
    }
    state = jit_init_state(mesh, model=MODEL, optimizer=OPTIMIZER, image_size=64, seed=0)()
    return mesh, state, sharding.place_batch(batch, mesh)


def compiled(folder, devices, fingerprint="a", **options):
    mesh, state, batch = start(devices)
    function = compilation.compile_train_step(
        mesh, state, batch, fingerprint=fingerprint, folder=folder, **{**STEP, **options}
    )
    return jax.device_get(function(state, batch))


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.long), 8])
def test_a_kept_step_is_the_traced_one_to_the_bit(devices, tmp_path, monkeypatch):
    first = compiled(tmp_path, devices)
    (kept,) = tmp_path.iterdir()
    assert kept.suffix == ".stablehlo"
    with monkeypatch.context() as patch:
        patch.setattr(compilation, "train_step", None)  # nothing is traced any more
        assert_same(compiled(tmp_path, devices), first)
    assert_same(compiled(None, devices), first)
    mesh, state, batch = start(devices)
    plain, _ = jax.device_get(compilation.jit_train_step(mesh, **STEP)(state, batch))
    assert plain.step == first[0].step == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, first[0])


def test_another_step_is_another_program(tmp_path):
    one, _ = compiled(tmp_path, 1)
    other_rate = make_optimizer(
        optax.constant_schedule(1e-2), weight_decay=0.0, head_lr_multiplier=1.0, accumulate_steps=1
    )
    other, _ = compiled(tmp_path, 1, fingerprint="b", optimizer=other_rate)
    assert len(list(tmp_path.iterdir())) == 2
    bias = one.params["classifier"]["bias"]
    assert abs(other.params["classifier"]["bias"] / bias - 10) < 0.01


def test_a_damaged_program_is_traced_anew(tmp_path, caplog):
    first = compiled(tmp_path, 1)
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    assert_same(compiled(tmp_path, 1), first)
    assert "traced anew" in caplog.text
    caplog.clear()
    assert_same(compiled(tmp_path, 1), first)
    assert not caplog.text  # the file was written again


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    assert_same(compiled(file / "folder", 1), compiled(None, 1))


def test_kept_programs_are_bounded_and_the_longest_unused_go(tmp_path, monkeypatch):
    first = compiled(tmp_path, 1)
    (kept,) = tmp_path.iterdir()
    size = kept.stat().st_size
    monkeypatch.setattr(compilation, "MAX_BYTES", 3 * size)
    for age, name in enumerate(["a.stablehlo", "b.stablehlo", ".c.stablehlo.7.tmp", "other"], 1):
        (tmp_path / name).write_bytes(bytes(size))
        os.utime(tmp_path / name, (0, 1e9 - age))
    os.utime(kept, (0, 1e9 - 10))  # the oldest, and read now
    assert_same(compiled(tmp_path, 1), first)
    compiled(tmp_path, 1, fingerprint="b")  # a new one
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 4
    assert {kept.name, "a.stablehlo", "other"} < left  # what is of no program stays
    # Another process takes the same files away meanwhile.
    monkeypatch.setattr(compilation, "MAX_BYTES", 0)
    monkeypatch.setattr(compilation.Path, "glob", lambda *_: [tmp_path / "gone.stablehlo", kept])
    compilation._remove_oldest(tmp_path)
    assert not kept.exists()


def test_a_program_with_kernels_of_our_own_can_be_kept():
    """As a training on a GPU keeps it; none is needed to write it."""

    def function(x, *layer):
        return dense_block_accelerator.train(x, (LayerWeights(*layer),), Execution("gpu"))[0]

    vectors = [jax.ShapeDtypeStruct((n,), jnp.float32) for n in (64, 64, 128, 128)]
    w1 = jax.ShapeDtypeStruct((1, 1, 64, 128), jnp.float32)
    w2 = jax.ShapeDtypeStruct((3, 3, 128, 32), jnp.float32)
    image = jax.ShapeDtypeStruct((2, 8, 8, 64), jnp.bfloat16)
    shapes = image, *vectors[:2], w1, *vectors[2:], w2
    program = compilation.export_program(jax.jit(function), *shapes, platforms=["cuda"])
    assert "triton" in str(program.mlir_module())
    kept = jax.export.deserialize(bytearray(program.serialize()))
    assert kept.platforms == ("cuda",)
