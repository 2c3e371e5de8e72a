import errno
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import two_processes

from jaxcovid.runtime import sharding
from jaxcovid.training.state import TrainState
from jaxcovid.workdir import checkpoint_facts, checkpoints
from jaxcovid.workdir.checkpoint_facts import CheckpointError, Validation
from jaxcovid.workdir.checkpoints import Checkpoints

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
    return Validation(step, auc, 0.5, thresholds={"youden": 0.4})


def save(workdir, aucs):
    """Saves steps 1, 2, ... of which those with an AUC are validated."""
    history = ()
    with opened(workdir) as saver:
        for step, auc in enumerate(aucs, start=1):
            if auc is not None:
                history = (*history, validation(step, auc))
            saver.save(step, state_at(step).items, history)
    return history


def opened(workdir):
    return Checkpoints(workdir, state_at(0).step.sharding)


def restored(saver, target=None):
    """State and history of the newest intact checkpoint; None if there is none."""
    target = target or state_at(0)
    found = saver.restore_latest(target.items)
    return found and (target.restored(found.step, found.items), found.history)


def equal(left, right):
    return all(
        jax.tree.leaves(jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), b), left, right))
    )


def restore_latest(workdir):
    with opened(workdir) as saver:
        return restored(saver)


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
    assert checkpoint_facts.steps(tmp_path) == [2, 6, 7]
    assert checkpoint_facts.open_checkpoint(tmp_path).step == 2


def test_the_later_of_two_equal_validations_is_the_best(tmp_path):
    save(tmp_path, [0.9, 0.9])
    assert checkpoint_facts.open_checkpoint(tmp_path).step == 2


def test_a_half_deleted_checkpoint_is_never_the_best(tmp_path, caplog):
    save(tmp_path, [0.9, 0.6])
    (tmp_path / "checkpoints" / "1" / "facts" / "metadata").unlink()
    assert checkpoint_facts.open_checkpoint(tmp_path).step == 2
    assert "checkpoint 1 of" in caplog.text
    assert "does not count" in caplog.text


def test_an_empty_workdir(tmp_path):
    assert restore_latest(tmp_path) is None
    with pytest.raises(CheckpointError, match="no validated checkpoint"):
        checkpoint_facts.open_checkpoint(tmp_path)


@pytest.mark.parametrize("item", ["weights", "optimizer"])
def test_a_flipped_byte_is_noticed_and_the_checkpoint_before_is_used(tmp_path, caplog, item):
    save(tmp_path, [0.6, None])
    for name in ("2", "2.1", "2.2"):  # the same step, damaged again and again
        flip_a_byte(tmp_path / "checkpoints" / "2" / item)
        bytes_of = contents(tmp_path / "checkpoints" / "2")
        with opened(tmp_path) as saver:
            found, history = restored(saver)
            assert int(found.step) == 1
            assert equal(state_at(1), found)
            assert len(history) == 1
            assert checkpoint_facts.steps(tmp_path) == [1], (
                "its step must be free to be saved again"
            )
            saver.save(2, state_at(2).items, history)
        assert checkpoint_facts.steps(tmp_path) == [1, 2]
        assert contents(tmp_path / "checkpoints.damaged" / name) == bytes_of
        assert f"kept in {tmp_path}/checkpoints.damaged/{name}" in caplog.text
    assert "checkpoint 2" in caplog.text
    assert "damaged" in caplog.text


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_missing_item_and_an_empty_folder_are_passed_by(tmp_path):
    save(tmp_path, [0.6, None])
    (tmp_path / "checkpoints" / "2" / "facts" / "metadata").unlink()
    (tmp_path / "checkpoints" / "3").mkdir()
    found, _ = restore_latest(tmp_path)
    assert int(found.step) == 1
    assert sorted(p.name for p in (tmp_path / "checkpoints.damaged").iterdir()) == ["2", "3"]


@pytest.mark.parametrize("damage", ["missing", "empty", "half", "flipped", "first"])
def test_whatever_is_damaged_is_restored_right_or_set_aside(damage, tmp_path):
    """Each file of a checkpoint in turn, as orbax, tensorstore and zarr notice it, or not."""
    save(tmp_path / "whole", [0.6, None])
    newest = tmp_path / "whole" / "checkpoints" / "2"
    files = [p.relative_to(newest) for p in sorted(newest.rglob("*")) if p.is_file()]
    files = [name for name in files if name.name != "commit_success.txt"]
    assert len(files) > 15
    aside = set()
    for i, name in enumerate(files):
        workdir = tmp_path / str(i)
        shutil.copytree(tmp_path / "whole", workdir)
        path = workdir / "checkpoints" / "2" / name
        content = bytearray(path.read_bytes())
        path.unlink()
        if damage in ("flipped", "first"):
            content[len(content) // 2 if damage == "flipped" else 0] ^= 0xFF
        if damage != "missing":
            path.write_bytes(
                {"empty": b"", "half": content[: len(content) // 2]}.get(damage, content)
            )
        found, _ = restore_latest(workdir)
        assert equal(state_at(int(found.step)), found), name
        moved = [p.name for p in (workdir / "checkpoints.damaged").glob("*")]
        assert moved == ([] if int(found.step) == 2 else ["2"]), name
        aside |= {name} if moved else set()
    assert pathlib.Path("facts/metadata") in aside
    assert len(aside) >= 5


TRANSIENT = [
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ESTALE, "Stale file handle"),
    PermissionError(errno.EACCES, "Permission denied"),
    MemoryError(),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes"),
    ValueError("UNKNOWN: Error opening \"zarr\" driver: Failed to read [os_error_code='5']"),
    ValueError("UNAVAILABLE: Error reading gs://bucket/d/0: connection reset"),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=repr)
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_error_that_may_pass_ends_the_run_and_touches_nothing(
    error, wrapped, tmp_path, monkeypatch
):
    save(tmp_path, [0.6, None])
    before, restore = contents(tmp_path), ocp.StandardCheckpointHandler.restore

    def fail(self, directory, *args, **kwargs):
        if "/2/" not in str(directory):
            return restore(self, directory, *args, **kwargs)
        if wrapped:  # as orbax does it
            raise Exception("Encountered error while reading array index") from error
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ocp.StandardCheckpointHandler, "restore", fail)
        with pytest.raises(CheckpointError, match=r"checkpoint 2 of .* cannot be read") as raised:
            restore_latest(tmp_path)
    assert error in (raised.value.__cause__, raised.value.__cause__.__cause__)
    assert contents(tmp_path) == before
    assert not (tmp_path / "checkpoints.damaged").exists()
    assert int(restore_latest(tmp_path)[0].step) == 2


@pytest.mark.parametrize("which", ["facts/metadata", "weights"])
def test_what_the_operating_system_refuses_for_real_is_no_damage(which, tmp_path):
    save(tmp_path, [0.6, None])
    path = tmp_path / "checkpoints" / "2" / which
    path = largest_file(path) if path.is_dir() else path
    content = path.read_bytes()
    path.unlink()
    path.symlink_to(path.name)  # to itself: ELOOP, also for root
    with pytest.raises(CheckpointError, match=r"cannot be read: .*symbolic links"):
        restore_latest(tmp_path)
    path.unlink()
    path.write_bytes(content)
    assert int(restore_latest(tmp_path)[0].step) == 2


def test_a_newer_format_is_no_damage(tmp_path):
    save(tmp_path, [0.6, None])
    path = tmp_path / "checkpoints" / "2" / "facts" / "metadata"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        restore_latest(tmp_path)
    assert checkpoint_facts.steps(tmp_path) == [1, 2]


def test_the_best_is_kept_by_the_runs_that_resume(tmp_path):
    save(tmp_path, [0.9, 0.5])
    for first in (3, 5):
        with opened(tmp_path) as saver:
            _, history = restored(saver)
            for step in (first, first + 1):
                history = (*history, validation(step, 0.6))
                saver.save(step, state_at(step).items, history)
    assert checkpoint_facts.steps(tmp_path) == [1, 5, 6]
    assert checkpoint_facts.open_checkpoint(tmp_path).step == 1


def test_a_validation_is_added_to_the_checkpoint_that_was_saved_before_it(tmp_path):
    with opened(tmp_path) as saver:
        history = ()
        for step, auc in enumerate([0.5, 0.9, 0.7, 0.6, 0.8], start=1):
            saver.save(step, state_at(step).items, history)
            history = (*history, validation(step, auc))
            saver.add_validation(history)
    assert checkpoint_facts.steps(tmp_path) == [2, 4, 5]
    assert checkpoint_facts.open_checkpoint(tmp_path).step == 2
    for step in (2, 4, 5):
        assert checkpoint_facts.read_facts(tmp_path, step).history == history[:step]
    found, found_history = restore_latest(tmp_path)
    assert equal(state_at(5), found)
    assert found_history == history


def restore_in_one_of_two(workdir, fails):
    """Prints the step that this process resumes from, or why it ends."""
    restore = ocp.StandardCheckpointHandler.restore

    def fail(self, directory, *args, **kwargs):
        if "/2/" in str(directory) and jax.process_index() == 1:
            raise OSError(errno.EIO, "Input/output error")
        return restore(self, directory, *args, **kwargs)

    if fails == "yes":
        ocp.StandardCheckpointHandler.restore = fail
    whole = sharding.replicated_sharding(sharding.make_mesh())
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), state_at(0)
    )
    with Checkpoints(pathlib.Path(workdir), whole) as saver:
        try:
            found, history = restored(saver, target)
            print("resumed from", int(found.step), "after", len(history))
        except CheckpointError as error:
            print("ended:", error)


def test_two_processes_of_which_one_cannot_read_the_newest_end_together(tmp_path):
    save(tmp_path, [0.6, None])
    before = contents(tmp_path)
    arguments = ("checkpoints_test", "restore_in_one_of_two", tmp_path)
    (status0, first), (status1, second) = two_processes.call(*arguments, "yes")
    assert (status0, status1) == (0, 0), first + second
    assert "could not be read by the processes [1]; all end" in first
    assert "cannot be read: [Errno 5] Input/output error" in second
    assert contents(tmp_path) == before
    for status, log in two_processes.call(*arguments, "no"):
        assert status == 0, log
        assert "resumed from 2 after 1" in log


def test_two_processes_pass_by_a_damaged_one_together(tmp_path):
    save(tmp_path, [0.6, None])
    flip_a_byte(tmp_path / "checkpoints" / "2" / "optimizer")
    for status, log in two_processes.call(
        "checkpoints_test", "restore_in_one_of_two", tmp_path, "no"
    ):
        assert status == 0, log
        assert "resumed from 1 after 1" in log
    assert [p.name for p in (tmp_path / "checkpoints.damaged").iterdir()] == ["2"]


def test_nothing_intact_is_an_error_and_deletes_nothing(tmp_path):
    save(tmp_path, [0.6, None])
    for step in ("1", "2"):
        flip_a_byte(tmp_path / "checkpoints" / step / "weights")
    with pytest.raises(CheckpointError, match=r"none of the checkpoints \[2, 1\]"):
        restore_latest(tmp_path)
    assert checkpoint_facts.steps(tmp_path) == [1, 2]


def weights_of(state):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    tree = {"params": state.params, "batch_stats": state.batch_stats}
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def test_weights_without_the_optimizer(tmp_path):
    save(tmp_path, [0.6])
    found = checkpoints.restore(
        checkpoint_facts.open_checkpoint(tmp_path, 1), {"weights": weights_of(state_at(0))}
    )
    assert equal(state_at(1).params, found["weights"]["params"])
    facts = checkpoint_facts.read_facts(tmp_path, 1)
    assert facts.validation.thresholds == {"youden": 0.4}


def test_another_network_a_missing_step_and_a_newer_format(tmp_path):
    save(tmp_path, [0.6])
    with pytest.raises(CheckpointError, match="another network"):
        checkpoints.restore(
            checkpoint_facts.open_checkpoint(tmp_path, 1),
            {"weights": weights_of(state_at(0, width=5))},
        )
    with pytest.raises(CheckpointError, match=r"no checkpoint 7 .* there are \[1\]"):
        checkpoint_facts.open_checkpoint(tmp_path, 7)
    path = tmp_path / "checkpoints" / "1" / "facts" / "metadata"
    facts = json.loads(path.read_text())
    assert facts["format_version"] == checkpoint_facts.FORMAT_VERSION
    path.write_text(json.dumps({**facts, "format_version": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint_facts.read_facts(tmp_path, 1)


def test_a_saved_state_does_not_change_when_its_buffers_are_donated(tmp_path):
    double = jax.jit(
        lambda s: s.replace(params=jax.tree.map(lambda x: 2 * x, s.params)), donate_argnums=0
    )
    state, expected = state_at(3), jax.device_get(state_at(3))
    with opened(tmp_path) as saver:
        saver.save(3, state.items, ())
        for _ in range(5):
            state = double(state)
    assert equal(expected, restore_latest(tmp_path)[0])


def test_eight_devices_to_one(tmp_path):
    many = jax.device_put(state_at(4), sharding.replicated_sharding(sharding.make_mesh(8)))
    with Checkpoints(tmp_path, many.step.sharding) as saver:
        saver.save(4, many.items, ())
    found, _ = restore_latest(tmp_path)
    assert equal(state_at(4), found)
    assert len(found.params["dense"]["bias"].devices()) == 1
