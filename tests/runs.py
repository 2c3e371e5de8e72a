"""Trainings of a narrow network on `folder/blobs`, started, watched, ended and compared."""

import json
import os
import subprocess
import sys
import tempfile
import time

from jaxcovid.training import checkpoints

CONFIG = (
    "--config=configs/default.py:debug",
    "--config.dataset=folder/blobs",
    "--config.epochs=40",
    "--config.validations_per_epoch=0.1",
    "--config.save_every_steps=7",
    "--config.optimizer.learning_rate=1e-3",
    "--config.workers=2",
)
STEPS = 120


def arguments(workdir, data_dir, *more):
    return (*CONFIG, f"--workdir={workdir}", f"--data_dir={data_dir}", *more)


def start(workdir, data_dir, *more, launcher=(sys.executable, "-m", "jaxcovid.train"), **environ):
    """Starts the train command on one device, or what a launcher makes of it."""
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115
    process = subprocess.Popen(
        [*launcher, *arguments(workdir, data_dir, *more)],
        cwd=os.environ["PYTHONPATH"],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", "PYTHON": sys.executable, **environ},
        stderr=log,
    )
    process.log = log
    return process


def ended(process, timeout=300):
    """The exit status of a process and what it said."""
    try:
        process.wait(timeout)
    finally:
        process.kill()
    process.log.seek(0)
    return process.returncode, process.log.read()


def text(workdir):
    file = workdir / "metrics.jsonl"
    return file.read_text() if file.exists() else ""


def wait_for_step(process, step, workdir, before=""):
    """Returns once the process has itself written the step.

    What an earlier, killed call wrote past its checkpoint, `before`, does not count.
    """
    while (now := text(workdir)) == before or f'"step": {step},' not in now:
        if process.poll() is not None:
            status, log = ended(process)
            raise AssertionError(f"ended with {status} before step {step}:\n{log}")
        time.sleep(0.01)


def end_at(signal_number, step, workdir, data_dir, *more):
    """Starts the train command and signals it once it has itself written the step."""
    before = text(workdir)
    process = start(workdir, data_dir, *more)
    wait_for_step(process, step, workdir, before)
    process.send_signal(signal_number)
    return ended(process)


def finish(workdir, data_dir, *more, **options):
    """Trains to the end; returns the log."""
    status, log = ended(start(workdir, data_dir, *more, **options), timeout=600)
    assert status == 0, log
    return log


def read_losses(workdir):
    lines = [json.loads(line) for line in text(workdir).splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def same_run(left, right, steps=STEPS):
    one, two = (checkpoints.read_facts(w, steps) for w in (left, right))
    assert one["checksums"] == two["checksums"], "parameters, moments or optimizer differ"
    assert one["history"] == two["history"]
    assert read_losses(left) == read_losses(right)
