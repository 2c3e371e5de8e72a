"""Trainings of a narrow network on `folder/blobs`, started, held, ended and compared.

Nothing here depends on how fast a training is: one that a test does something to is held at a step
until that is done. Whatever is started is ended, see `end_all`.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid

from jaxcovid.workdir import checkpoint_facts

CONFIG = (
    "--config=configs/default.py:debug",
    "--config.dataset=folder/blobs",
    "--config.epochs=40",
    "--config.validations_per_epoch=0.1",
    "--config.save_every_steps=12",
    "--config.optimizer.learning_rate=1e-3",
    "--config.workers=0",
)
WORKERS = ("--config.workers=2",)  # the same training, its images prepared by two processes
STEPS = 120
TIMEOUT_S = 900  # far beyond what anything takes on a busy machine
HOLD = pathlib.Path(__file__).with_name("hold")
_MARK = "JAXCOVID_TEST_MARK"  # in the environment of all that a test starts
_started, _folders = [], []


def popen(words, *, env=None, **options):
    """`subprocess.Popen` of something that `end_all` ends, with all that it starts itself."""
    mark = uuid.uuid4().hex
    _started.append(mark)
    return subprocess.Popen(words, env={**(env or os.environ), _MARK: mark}, **options)


def run(words, *, timeout=TIMEOUT_S, **options):
    """`subprocess.run` of such a process, with its output as text."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = popen(words, **{**pipes, **options})
    try:
        out, error = process.communicate(timeout=timeout)
    except BaseException:
        end_all()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


def end_all():
    """Kills what is left of all that was started: stopped, orphaned or in a session of its own."""
    marks = {f"{_MARK}={mark}".encode() for mark in _started}
    killed, deadline = bool(marks), time.monotonic() + 60
    while killed:  # until nothing is left that could start something
        assert time.monotonic() < deadline, "something cannot be ended"
        killed = False
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if marks & set((folder / "environ").read_bytes().split(b"\0")):
                    os.kill(int(folder.name), signal.SIGKILL)
                    killed = True
        time.sleep(0.01)
    _started.clear()
    while _folders:
        shutil.rmtree(_folders.pop())


def arguments(workdir, data_dir, *more):
    return (*CONFIG, f"--workdir={workdir}", f"--data_dir={data_dir}", *more)


def start(
    workdir,
    data_dir,
    *more,
    launcher=(sys.executable, "-m", "jaxcovid.train"),
    hold=None,
    pause_s=0.0,
    start_new_session=False,
    **environ,
):
    """Starts the train command on one device, or what a launcher makes of it.

    Args:
      workdir: of the run.
      data_dir: of the data set.
      *more: options.
      launcher: what gets the options.
      hold: the step at which it waits for `release`, before anything else is done.
      pause_s: how much longer each step takes afterwards.
      start_new_session: as that of `Popen`.
      **environ: more of the environment.
    """
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115
    repository = os.environ["PYTHONPATH"]
    folder = pathlib.Path(tempfile.mkdtemp())  # not on a disk that a test fills
    _folders.append(folder)
    if hold is not None:
        environ["PYTHONPATH"] = os.pathsep.join([str(HOLD), repository])
        environ |= {"HOLD_FOLDER": str(folder), "HOLD_STEP": str(hold)}
        environ["HOLD_PAUSE_S"] = str(pause_s)
    process = popen(
        [*launcher, *arguments(workdir, data_dir, *more)],
        cwd=repository,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", "PYTHON": sys.executable, **environ},
        stderr=log,
        start_new_session=start_new_session,
    )
    process.log, process.hold = log, folder
    return process


def ended(process, timeout=TIMEOUT_S):
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


def wait_until_held(process):
    """Returns once the process has written the step at which it is held."""
    wait(lambda: (process.hold / "held").exists(), process)


def wait(until, process, timeout=TIMEOUT_S):
    """Returns once something is so; an error if the process ends before."""
    deadline = time.monotonic() + timeout
    while not until():
        if process.poll() is not None:
            status, log = ended(process)
            raise AssertionError(f"ended with {status} too early:\n{log}")
        assert time.monotonic() < deadline
        time.sleep(0.01)


def release(process):
    """Lets a process that is held go on."""
    (process.hold / "go").touch()


def end_at(signal_number, step, workdir, data_dir, *more):
    """Starts the train command and signals it when it has written the step."""
    process = start(workdir, data_dir, *more, hold=step)
    wait_until_held(process)
    process.send_signal(signal_number)
    release(process)
    return ended(process)


def finish(workdir, data_dir, *more, **options):
    """Trains to the end; returns the log."""
    status, log = ended(start(workdir, data_dir, *more, **options))
    assert status == 0, log
    return log


def read_losses(workdir):
    lines = [json.loads(line) for line in text(workdir).splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def same_run(left, right, steps=STEPS):
    one, two = (checkpoint_facts.read_facts(w, steps) for w in (left, right))
    assert one.checksums == two.checksums, "parameters, moments or optimizer differ"
    assert one.history == two.history
    assert read_losses(left) == read_losses(right)
