"""Runs that are ended at a validation, and what the loop does at its steps."""

import dataclasses
import json
import signal
import sys

import jax
import jax.numpy as jnp
import pytest
from runs import end_at, ended, finish, same_run, start, text

from configs import default
from jaxcovid import train
from jaxcovid.training import startup, validation
from jaxcovid.workdir import checkpoint_facts

STEPS = 60  # validated at 30 and 60
# Seven steps are one update: neither 30 nor 60 is at its end, and the last update is one of four.
OPTIONS = ("--config.epochs=20", "--config.optimizer.accumulate_steps=7", "--config.workers=0")

# The train command, ended at step AT in one of three ways.
CHILD = """
import os, signal, sys, time
from pathlib import Path
from absl import app
from jaxcovid import train
from jaxcovid.runtime import config_files
from jaxcovid.training import preemption, validation
from jaxcovid.workdir import checkpoint_facts, checkpoints

how, at = sys.argv.pop(1), int(sys.argv.pop(1))
workdir = next(word.partition("=")[2] for word in sys.argv if word.startswith("--workdir="))
requested, predict = preemption.Termination.requested, validation.predict_source
seen = [0]

def request(self, step):
    seen[0] = step
    if (how, step) == ("signal", at):
        os.kill(os.getpid(), signal.SIGTERM)
    return requested(self, step)

def kill():
    deadline = time.monotonic() + 20
    while at not in checkpoint_facts.steps(Path(workdir)) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

def validate(*args, **kwargs):
    assert (how, seen[0]) != ("signal", at), "validated after the signal"
    if (how, seen[0]) == ("kill before", at):
        kill()
    return predict(*args, **kwargs)

def add(self, history):
    if (how, seen[0]) == ("kill after", at):
        kill()
    return added(self, history)

preemption.Termination.requested, validation.predict_source = request, validate
added, checkpoints.Checkpoints.add_validation = checkpoints.Checkpoints.add_validation, add
app.run(train.main, flags_parser=config_files.parse_flags)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("whole") / "w"
    finish(workdir, data_dir, *OPTIONS)
    assert [entry.step for entry in checkpoint_facts.read_facts(workdir, STEPS).history] == [30, 60]
    return workdir


def log_of(workdir):
    """Every line of a run's log, in order, without what the clock says."""
    lines = [json.loads(line) for line in text(workdir).splitlines()]
    clock = ("images_per_s", "data_stall_share")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


@pytest.mark.long
@pytest.mark.parametrize(
    ("how", "at"), [("signal", 30), ("signal", 60), ("kill before", 30), ("kill after", 60)]
)
def test_a_run_ended_at_a_validation_has_saved_and_validates_when_it_resumes(
    how, at, whole, tmp_path, data_dir
):
    workdir = tmp_path / "w"
    launcher = (sys.executable, "-c", CHILD, how, str(at))
    status, log = ended(start(workdir, data_dir, *OPTIONS, launcher=launcher))
    assert status == (143 if how == "signal" else -signal.SIGKILL), log
    assert checkpoint_facts.steps(workdir)[-1] == at
    assert checkpoint_facts.read_facts(workdir, at).validation is None
    if how == "signal":
        assert f"step {at} is saved" in log
    log = finish(workdir, data_dir, *OPTIONS)
    assert f"Validating step {at}" in log
    same_run(whole, workdir, STEPS)
    assert log_of(whole) == log_of(workdir)
    best, expected = map(checkpoint_facts.open_checkpoint, (workdir, whole))
    assert best.step == expected.step
    assert "finished before" in finish(workdir, data_dir, *OPTIONS)


@pytest.mark.long
def test_a_run_killed_within_an_accumulation_resumes_bit_for_bit(whole, tmp_path, data_dir):
    end_at(signal.SIGKILL, 50, tmp_path / "w", data_dir, *OPTIONS)
    finish(tmp_path / "w", data_dir, *OPTIONS)
    same_run(whole, tmp_path / "w", STEPS)


def config(**options):
    found = default.get_config("debug")
    found.dataset = "folder/blobs"
    found.update_from_flattened_dict({"epochs": 1.0, "validations_per_epoch": 1.0, **options})
    return found


def test_more_accumulated_steps_than_the_training_has_write_nothing(tmp_path, data_dir):
    options = config(**{"optimizer.accumulate_steps": 4})
    with pytest.raises(ValueError, match=r"accumulate_steps is 4, .* 3 steps"):
        train.run(options, workdir=tmp_path / "w", data_dir=data_dir)
    assert not (tmp_path / "w").exists()


def test_a_profile_holds_the_work_of_its_last_step(tmp_path, data_dir, monkeypatch):
    compiled, stepped, ready = startup.compile_train_step, [], []

    @jax.jit
    def slow(x):
        """The same number, a while later."""
        matrix = jnp.full((300, 300), x, jnp.float32)
        matrix = jax.lax.fori_loop(0, 200, lambda i, m: jnp.tanh(m @ m), matrix)
        return jnp.where(matrix[0, 0] > 2, 0, x)  # it never is

    def compile_train_step(*args, **kwargs):
        step = compiled(*args, **kwargs)

        def stepping(*arguments):
            state, numbers = step(*arguments)
            if len(stepped) == 3:
                state = state.replace(step=slow(state.step))
            stepped.append((state, numbers))
            return stepped[-1]

        return stepping

    class Trace:
        def __init__(self, folder):
            self.folder = folder

        def __enter__(self):
            assert len(stepped) == 1, "the first step traced is the second one"

        def __exit__(self, *_):
            ready.append((len(stepped), [x.is_ready() for x in jax.tree.leaves(stepped[-1])]))

    monkeypatch.setattr(startup, "compile_train_step", compile_train_step)
    monkeypatch.setattr(jax.profiler, "trace", Trace)
    options = config(epochs=2.0, profile=(2, 4), save_every_steps=100)
    train.run(options, workdir=tmp_path / "w", data_dir=data_dir)
    ((count, arrays),) = ready
    assert count == 4
    assert all(arrays)


def test_workers_serve_a_validation_that_is_long_enough(tmp_path, data_dir, monkeypatch):
    assert validation.validation_workers(8, 2000) == 8
    assert validation.validation_workers(8, 1999) == validation.validation_workers(2, 5000) == 0
    given, predict = [], validation.predict_source

    def predict_source(*args, loading, **kwargs):
        given.append(loading.workers)
        return predict(*args, loading=dataclasses.replace(loading, workers=0), **kwargs)

    monkeypatch.setattr(validation, "predict_source", predict_source)
    monkeypatch.setattr(validation, "validation_workers", lambda workers, images: (workers, images))
    train.run(config(workers=1), workdir=tmp_path / "w", data_dir=data_dir)
    assert given == [(1, 9)]
