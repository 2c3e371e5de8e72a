"""What can go wrong while a run trains, provoked for real: it says so, and nothing is lost.

Each fault ends with the same parameters, moments and log, bit for bit, as the run without it.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from runs import (
    HOLD,
    STEPS,
    TIMEOUT_S,
    WORKERS,
    arguments,
    end_at,
    ended,
    finish,
    read_losses,
    release,
    same_run,
    start,
    text,
    wait,
    wait_until_held,
)

from jaxcovid.data.opening import open_dataset
from jaxcovid.workdir import checkpoint_facts, heartbeat

pytestmark = pytest.mark.long
LOCAL = ("bash", "launch/local.sh", "2")
LONG = ("--config.epochs=200",)
LONG_STEPS = 600
KILLS, IN_A_SAVE = 10, 4
# Eight devices on two busy cores come to a collective at very different times.
PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=300"


@contextlib.contextmanager
def disk(folder, size):
    """A small file system of its own at `folder`."""
    if os.geteuid():
        pytest.skip("to mount a file system needs root")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def test_killed_at_random_moments_some_of_them_in_a_save(tmp_path, data_dir):
    """No moment is safe only because no test kills there: elsewhere the step is known."""
    whole, workdir = tmp_path / "whole", tmp_path / "killed"
    finish(whole, data_dir, *LONG)
    rng, saves, kills = np.random.default_rng(), 0, 0

    def killed_in_time(process, before):
        """Kills the process; False if it has ended before."""
        while process.poll() is None and text(workdir) in ("", before):
            time.sleep(0.01)
        if saves < IN_A_SAVE:  # while a checkpoint is written
            while not list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp")):
                if process.poll() is not None:
                    return False
        else:
            time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        return ended(process)[0] == -signal.SIGKILL

    while kills < KILLS:
        if killed_in_time(start(workdir, data_dir, *LONG), text(workdir)):
            kills += 1
            saves += saves < IN_A_SAVE
        else:  # it was faster, and is the same run; a new one takes the kills that are left
            same_run(whole, workdir, LONG_STEPS)
            shutil.rmtree(workdir)
    finish(workdir, data_dir, *LONG)
    same_run(whole, workdir, LONG_STEPS)


def test_a_killed_worker_process_ends_the_run_which_resumes(trained, tmp_path, data_dir):
    process = start(tmp_path / "w", data_dir, *WORKERS, hold=20)
    wait_until_held(process)
    children = pathlib.Path(f"/proc/{process.pid}/task").glob("*/children")
    pids = [int(pid) for file in children for pid in file.read_text().split()]
    workers = [p for p in pids if b"spawn_main" in pathlib.Path(f"/proc/{p}/cmdline").read_bytes()]
    assert workers
    os.kill(workers[0], signal.SIGKILL)
    release(process)
    status, log = ended(process)
    assert status == 1, log
    assert re.search(r"error: Worker process was terminated", log), log
    finish(tmp_path / "w", data_dir, *WORKERS)
    same_run(trained, tmp_path / "w")


def test_the_disk_is_full_in_a_save(trained, tmp_path, data_dir):
    with disk(tmp_path / "disk", "900k") as folder:
        status, log = ended(start(folder / "w", data_dir))
        assert status == 1, log
        assert "No space left" in log
        last = checkpoint_facts.steps(folder / "w")
        remount(folder, "size=100m")
        finish(folder / "w", data_dir)
        if last:
            assert checkpoint_facts.steps(folder / "w")
        same_run(trained, folder / "w")


def test_the_disk_is_full_while_it_logs(trained, tmp_path, data_dir):
    with disk(tmp_path / "disk", "20m") as folder:
        # Checkpoints at 60 and 120 only: between them nothing is written but the log.
        options = (
            "--config.epochs=200",
            "--config.validations_per_epoch=0.05",
            "--config.save_every_steps=1000",
        )
        process = start(folder / "w", data_dir, *options, hold=61)
        wait_until_held(process)
        wait(lambda: checkpoint_facts.steps(folder / "w") == [60], process)
        with contextlib.suppress(OSError):  # that is what fills it
            (folder / "filler").write_bytes(bytes(20 * 2**20))
        assert shutil.disk_usage(folder).free == 0
        release(process)
        status, log = ended(process)
        assert status == 1, log
        assert "No space left" in log
        assert checkpoint_facts.steps(folder / "w") == [60]
        (folder / "filler").unlink()
        finish(folder / "w", data_dir, *options)
        assert read_losses(folder / "w")[:STEPS] == read_losses(trained)


def test_the_workdir_becomes_read_only(trained, tmp_path, data_dir):
    with disk(tmp_path / "disk", "100m") as folder:
        process = start(folder / "w", data_dir, hold=20)
        wait_until_held(process)
        # As a file system does it to itself after an error: files that are open stay writable.
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        release(process)
        status, log = ended(process)
        assert status == 1, log
        assert "Read-only file system" in log
        subprocess.run(["umount", "-l", folder], check=True)
        finish(folder / "w", data_dir)
        same_run(trained, folder / "w")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def test_the_newest_checkpoint_is_damaged(trained, tmp_path, data_dir):
    """As the command meets it; `workdir/checkpoints_test.py` damages it in every way."""
    end_at(signal.SIGKILL, 60, tmp_path / "w", data_dir)
    newest = checkpoint_facts.steps(tmp_path / "w")[-1]
    folder = tmp_path / "w" / "checkpoints" / str(newest) / "weights"
    flip(max(folder.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size))
    log = finish(tmp_path / "w", data_dir)
    assert f"checkpoint {newest} of" in log
    assert "trying the one before it" in log
    same_run(trained, tmp_path / "w")


def test_the_clock_is_set_back(trained, tmp_path, data_dir):
    if not shutil.which("faketime"):
        pytest.skip("needs faketime")
    end_at(signal.SIGKILL, 60, tmp_path / "w", data_dir)
    command = ("faketime", "-f", "-2d", sys.executable, "-m", "jaxcovid.train")
    clock = {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    process = start(tmp_path / "w", data_dir, launcher=command, hold=75, **clock)
    wait_until_held(process)
    wait(lambda: checkpoint_facts.steps(tmp_path / "w")[-1] > 60, process)
    (beat,) = heartbeat.read(tmp_path / "w")  # of the trainer, which faketime has started
    os.kill(beat.pid, signal.SIGKILL)
    ended(process)
    assert checkpoint_facts.steps(tmp_path / "w")[-1] > 60  # saved before what was saved earlier
    finish(tmp_path / "w", data_dir)
    same_run(trained, tmp_path / "w")


def listeners(*pids):
    """Addresses on which processes take connections."""
    if not shutil.which("ss"):
        pytest.skip("needs ss, of iproute2")
    lines = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    return [
        line.split()[3].rpartition(":")[0]
        for line in lines.splitlines()
        if any(f"pid={pid}," in line for pid in pids)
    ]


def test_a_second_training_in_the_same_workdir_is_refused(trained, tmp_path, data_dir):
    process = start(tmp_path / "w", data_dir, hold=5)
    wait_until_held(process)
    assert not listeners(process.pid)
    status, log = ended(start(tmp_path / "w", data_dir))
    assert status == 1
    assert f"is in use by process {process.pid} on" in log
    process.send_signal(signal.SIGKILL)
    process.wait()
    finish(tmp_path / "w", data_dir)  # a dead owner holds nothing
    same_run(trained, tmp_path / "w")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_record(workers, tmp_path, data_dir):
    shutil.copytree(data_dir, tmp_path / "data")
    dataset = open_dataset("folder/blobs", tmp_path / "data")
    file = next(pathlib.Path(dataset.directory).glob("*train*record*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    options = (f"--config.workers={workers}",)
    status, log = ended(start(tmp_path / "stop", tmp_path / "data", *options))
    assert status == 1
    assert re.search(r"record \d+ of Source\(.*'train'\) cannot be read", log), log
    log = finish(tmp_path / "skip", tmp_path / "data", "--config.bad_records=skip", *options)
    assert "is replaced by the next one" in log
    assert len(read_losses(tmp_path / "skip")) == STEPS
    last = json.loads(text(tmp_path / "skip").splitlines()[-2])
    assert last["replaced_records"] == 40  # once an epoch
    assert np.mean([loss for _, loss in read_losses(tmp_path / "skip")[-20:]]) < 0.4


def test_a_nan_loss_names_its_step_and_the_last_good_checkpoint(tmp_path, data_dir):
    status, log = ended(start(tmp_path / "w", data_dir, "--config.optimizer.learning_rate=1e18"))
    assert status == 1
    assert "not finite at step" in log
    assert "nothing was saved yet" in log or "checkpoint is step" in log


def test_a_slurm_job_is_requeued(slurm, trained, tmp_path, data_dir):
    log = tmp_path / "job.out"
    script = ("sbatch", "--parsable", f"--output={log}", "launch/slurm.sbatch")
    words = (*script, *arguments(tmp_path / "w", data_dir))
    repository = os.environ["PYTHONPATH"]
    held = {
        "PYTHONPATH": f"{HOLD}:{repository}",
        "HOLD_FOLDER": str(tmp_path),
        "HOLD_STEP": "30",
        "HOLD_PAUSE_S": "0.2",
    }
    job = slurm(*words, cwd=repository, JAX_NUM_CPU_DEVICES="1", **held)

    def wait(until):
        deadline = time.monotonic() + TIMEOUT_S
        while not until():
            assert time.monotonic() < deadline, log.read_text() if log.exists() else "no log"
            time.sleep(0.1)

    def state():
        return re.search(r"JobState=(\w+)", slurm("scontrol", "show", "job", job))[1]

    wait((tmp_path / "held").exists)
    slurm("scontrol", "requeue", job)
    (tmp_path / "go").touch()
    wait(lambda: state() == "PENDING")
    slurm("scontrol", "update", f"jobid={job}", "starttime=now")  # SLURM would wait two minutes
    wait(lambda: state() == "COMPLETED")
    assert "is saved. The same command resumes." in log.read_text()
    assert "Resuming from the checkpoint of step" in log.read_text()
    same_run(trained, tmp_path / "w")


class TestTwoProcesses:
    """Two processes, from launch/local.sh."""

    @pytest.fixture(scope="class")
    def whole(self, tmp_path_factory, data_dir):
        workdir = tmp_path_factory.mktemp("two") / "whole"
        finish(workdir, data_dir, launcher=LOCAL)
        return workdir

    def test_one_is_killed_and_the_launcher_starts_both_again(self, whole, tmp_path, data_dir):
        process = start(tmp_path / "w", data_dir, launcher=LOCAL, hold=30)
        wait_until_held(process)
        wait(lambda: len(heartbeat.read(tmp_path / "w")) == 2, process)
        first = heartbeat.read(tmp_path / "w")
        os.kill(first[1].pid, signal.SIGKILL)
        release(process)
        wait(lambda: not pathlib.Path(f"/proc/{first[0].pid}").exists(), process)
        status, log = ended(process)
        assert status == 0, log
        assert "a process ended with status" in log
        same_run(whole, tmp_path / "w")

    def test_one_gets_a_signal_and_all_save_the_same_step(self, whole, tmp_path, data_dir):
        process = start(tmp_path / "w", data_dir, launcher=LOCAL, hold=30, pause_s=0.2)
        wait_until_held(process)
        wait(lambda: len(heartbeat.read(tmp_path / "w")) == 2, process)
        pids = [beat.pid for beat in heartbeat.read(tmp_path / "w")]
        assert set(listeners(*pids)) <= {"127.0.0.1", "[::ffff:127.0.0.1]"}
        assert listeners(pids[0])  # the coordinator
        os.kill(pids[1], signal.SIGTERM)
        release(process)
        status, log = ended(process)
        assert status == 143, log
        saved = checkpoint_facts.steps(tmp_path / "w")[-1]
        assert log.count(f"step {saved} is saved") == 2
        finish(tmp_path / "w", data_dir, launcher=LOCAL)
        same_run(whole, tmp_path / "w")

    def test_a_run_goes_on_with_other_processes_and_devices(self, tmp_path, data_dir):
        """2 x 4, then 1 x 8, 1 x 1 and 2 x 4 again, in FSDP too: a checkpoint knows no devices."""
        # The learning rate is the paper's: a higher one makes much of what is rounded otherwise.
        options = ("--config.optimizer.learning_rate=1e-5", "--config.epochs=10")
        finish(tmp_path / "one", data_dir, *options, JAX_NUM_CPU_DEVICES="8", XLA_FLAGS=PATIENT)
        topologies = [
            (LOCAL, "4", "--config.fsdp=8"),
            (None, "8", "--config.fsdp=2"),
            (None, "1", "--config.fsdp=1"),
            (LOCAL, "4", "--config.fsdp=1"),
        ]
        for i, (launcher, devices, fsdp) in enumerate(topologies):
            launched = {"launcher": launcher} if launcher else {}
            if i < len(topologies) - 1:
                launched |= {"hold": 7 * (i + 1), "pause_s": 0.2}
            process = start(
                tmp_path / "w",
                data_dir,
                *options,
                fsdp,
                JAX_NUM_CPU_DEVICES=devices,
                XLA_FLAGS=PATIENT,
                **launched,
            )
            if i < len(topologies) - 1:
                wait_until_held(process)
                process.send_signal(signal.SIGTERM)
                release(process)
            status, log = ended(process)
            assert status == (143 if i < len(topologies) - 1 else 0), log
        one, many = (np.array(read_losses(tmp_path / name)) for name in ("one", "w"))
        assert one.shape == many.shape
        np.testing.assert_allclose(one[:20], many[:20], atol=1e-4)
        np.testing.assert_allclose(one, many, atol=0.05)
        # 9 images in batches of 8: each process pads its own rows of the last batch.
        last, reference = (
            checkpoint_facts.read_facts(tmp_path / name, 30).history[-1] for name in ("w", "one")
        )
        assert last.auc == pytest.approx(reference.auc, abs=1e-3)
        assert last.loss == pytest.approx(reference.loss, abs=1e-2)
