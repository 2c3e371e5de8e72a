import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcovid.training import checkpoints
from jaxcovid.training.checkpoints import CheckpointError, Checkpoints
from jaxcovid.training.state import TrainState

OPTIMIZER = optax.adam(1e-3)


def state_at(step, width=40):
    """A state of noise, which no compression can shrink to nothing."""
    params = {"dense": {"kernel": jnp.zeros((50, width)), "bias": jnp.zeros(width)}}
    state = TrainState(
        step=jnp.int32(step),
        params=params,
        batch_stats={"norm": {"mean": jnp.zeros(width)}},
        opt_state=OPTIMIZER.init(params),
    )
    rng = np.random.default_rng(step)
    noisy = jax.tree.map(
        lambda x: x if x.ndim == 0 else rng.normal(size=x.shape).astype(np.float32), state
    )
    return jax.device_put(noisy, jax.devices()[0])


def validation(step, auc):
    return {"step": step, "auc": auc, "loss": 0.5, "thresholds": {"youden": 0.4}}


def save(workdir, aucs):
    """Saves steps 1, 2, ... of which those with an AUC are validated."""
    history = []
    with Checkpoints(workdir) as saver:
        for step, auc in enumerate(aucs, start=1):
            if auc is not None:
                history.append(validation(step, auc))
            saver.save(state_at(step), list(history))
    return history


def equal(left, right):
    return all(
        jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), b), left, right))
    )


def restore_latest(workdir):
    with Checkpoints(workdir) as saver:
        return saver.restore_latest(state_at(0))


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_a_byte(folder):
    path = largest_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_state_comes_back_bit_for_bit_with_its_history(tmp_path):
    history = save(tmp_path, [0.6, None])
    found, found_history = restore_latest(tmp_path)
    assert equal(state_at(2), found)
    assert found_history == history
    assert int(found.step) == 2


def test_the_latest_two_and_the_best_are_kept(tmp_path):
    save(tmp_path, [0.5, 0.9, 0.6, None, 0.7, None, None])
    assert checkpoints.steps(tmp_path) == [2, 6, 7]
    assert checkpoints.best_step(tmp_path) == 2


def test_the_later_of_two_equal_validations_is_the_best(tmp_path):
    save(tmp_path, [0.9, 0.9])
    assert checkpoints.best_step(tmp_path) == 2


def test_an_empty_workdir(tmp_path):
    assert restore_latest(tmp_path) is None
    with pytest.raises(CheckpointError, match="no validated checkpoint"):
        checkpoints.best_step(tmp_path)


@pytest.mark.parametrize("item", ["weights", "optimizer"])
def test_a_flipped_byte_is_noticed_and_the_checkpoint_before_is_used(tmp_path, caplog, item):
    save(tmp_path, [0.6, None])
    flip_a_byte(tmp_path / "checkpoints" / "2" / item)
    found, history = restore_latest(tmp_path)
    assert int(found.step) == 1
    assert equal(state_at(1), found)
    assert len(history) == 1
    assert "checkpoint 2" in caplog.text
    assert "damaged" in caplog.text
    assert checkpoints.steps(tmp_path) == [1], "its step must be free to be saved again"


def test_a_missing_item_and_an_empty_folder_are_passed_by(tmp_path):
    save(tmp_path, [0.6, None])
    (tmp_path / "checkpoints" / "2" / "facts" / "metadata").unlink()
    (tmp_path / "checkpoints" / "3").mkdir()
    found, _ = restore_latest(tmp_path)
    assert int(found.step) == 1


def test_nothing_intact_is_an_error_and_deletes_nothing(tmp_path):
    save(tmp_path, [0.6, None])
    for step in ("1", "2"):
        flip_a_byte(tmp_path / "checkpoints" / step / "weights")
    with pytest.raises(CheckpointError, match=r"none of the checkpoints \[2, 1\]"):
        restore_latest(tmp_path)
    assert checkpoints.steps(tmp_path) == [1, 2]


def weights_of(state):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    tree = {"params": state.params, "batch_stats": state.batch_stats}
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def test_weights_without_the_optimizer(tmp_path):
    save(tmp_path, [0.6])
    found = checkpoints.restore(tmp_path, 1, {"weights": weights_of(state_at(0))})
    assert equal(state_at(1).params, found["weights"]["params"])
    facts = checkpoints.read_facts(tmp_path, 1)
    assert checkpoints.validation_of(facts)["thresholds"] == {"youden": 0.4}


def test_another_network_a_missing_step_and_a_newer_format(tmp_path):
    save(tmp_path, [0.6])
    with pytest.raises(CheckpointError, match="another network"):
        checkpoints.restore(tmp_path, 1, {"weights": weights_of(state_at(0, width=5))})
    with pytest.raises(CheckpointError, match=r"no checkpoint 7 .* there are \[1\]"):
        checkpoints.restore(tmp_path, 7, {})
    path = tmp_path / "checkpoints" / "1" / "facts" / "metadata"
    facts = json.loads(path.read_text())
    assert facts["format_version"] == checkpoints.FORMAT_VERSION
    path.write_text(json.dumps({**facts, "format_version": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoints.read_facts(tmp_path, 1)


def test_a_saved_state_does_not_change_when_its_buffers_are_donated(tmp_path):
    double = jax.jit(
        lambda s: s.replace(params=jax.tree.map(lambda x: 2 * x, s.params)), donate_argnums=0
    )
    state, expected = state_at(3), jax.device_get(state_at(3))
    with Checkpoints(tmp_path) as saver:
        saver.save(state, [])
        for _ in range(5):
            state = double(state)
    assert equal(expected, restore_latest(tmp_path)[0])


def test_eight_devices_to_one(tmp_path):
    from jaxcovid.training import sharding

    many = jax.device_put(state_at(4), sharding.replicated_sharding(sharding.make_mesh(8)))
    with Checkpoints(tmp_path) as saver:
        saver.save(many, [])
    found, _ = restore_latest(tmp_path)
    assert equal(state_at(4), found)
    assert len(found.params["dense"]["bias"].devices()) == 1
