"""What the commands share: which errors are messages, the log, the home folder, Ctrl-C."""

import collections
import logging
import os
import pathlib
import shutil
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from jaxcovid.data import datasets
from jaxcovid.data.decoding import ImageError
from jaxcovid.inference import image_reader, screening
from jaxcovid.runtime import cli, files, user_errors
from jaxcovid.workdir.run import WorkdirError

PACKAGE = pathlib.Path(cli.__file__).parents[1]


def in_package(code, **names):
    """Runs code as if it stood in a file of the package."""
    exec(compile(code, str(PACKAGE / "training" / "made_up.py"), "exec"), names)


CHAIN = """
try:
    int("a")
except ValueError as error:
    raise ValueError("say so") from error
"""


def wrapped():
    try:
        screening.parse_threshold("high", {})
    except ValueError as error:
        raise KeyError("a library's") from error


@pytest.mark.parametrize(
    "fails",
    [
        lambda: screening.parse_threshold("high", {"youden": 0.5}),
        lambda: image_reader.list_files(["nowhere"], collections.Counter()),
        lambda: in_package("raise RuntimeError('say so')"),
        lambda: in_package(
            "try:\n  int('a')\nexcept ValueError as e:\n  raise ValueError('b') from e"
        ),
        lambda: pathlib.Path("nowhere").read_text(),
        lambda: runs_out_of_disk(),
        wrapped,
    ],
)
def test_errors_that_a_user_can_mend_are_one_line(fails, capsys):
    with pytest.raises(SystemExit) as end, user_errors.user_errors():
        fails()
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said


def runs_out_of_disk():
    raise RuntimeError("INTERNAL: write failed: No space left on device")


@pytest.mark.parametrize("kind", [WorkdirError, ImageError])
def test_errors_of_this_packages_kinds_are_messages_wherever_they_come_from(kind):
    assert user_errors.is_for_user(kind("say so"))
    assert not user_errors.is_for_user(ValueError("who knows"))


@pytest.mark.parametrize(
    "fails",
    [
        lambda: jnp.zeros(3).reshape(7),  # TypeError
        lambda: jax.jit(lambda x: x + jnp.zeros(4))(jnp.zeros(3)),
        lambda: np.zeros(3).reshape(7),  # ValueError
        lambda: in_package("int('a')"),
        lambda: in_package("n.stack([n.ones(2), n.ones(3)])", n=np),
        lambda: in_package("a, b = 1, 2, 3"),
        lambda: in_package("raise KeyError('k')"),
        lambda: in_package("raise TypeError('t')"),
        lambda: [][1],
    ],
)
def test_mistakes_keep_their_traceback(fails, capsys):
    with pytest.raises(SystemExit) as end, user_errors.user_errors():
        fails()
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert "cli_test.py" in said


@pytest.mark.parametrize(
    ("name", "level", "heard"),
    [
        (PACKAGE / "train.py", logging.INFO, True),
        (PACKAGE / "training" / "loop.py", logging.INFO, True),
        (PACKAGE.parent / ".venv/lib/orbax/checkpoint.py", logging.INFO, False),
        ("/home/a/jaxcovid/.venv/lib/python3.11/orbax/checkpoint.py", logging.INFO, False),
        ("/usr/lib/jaxcovid/x.py", logging.WARNING, True),
    ],
)
def test_libraries_are_heard_from_warnings_on(name, level, heard):
    record = logging.LogRecord("absl", level, str(name), 1, "text", (), None)
    assert bool(cli.is_logged(record)) is heard


def test_a_home_that_is_not_there(monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", "~")  # what pathlib makes of one that is not there
    with pytest.raises(ValueError, match=r"no home folder: set HOME, .* --data_dir=DIR"):
        datasets.default_data_dir()
    for name in ("~/runs/a", "~nobody-here/a"):
        with pytest.raises(ValueError, match=f"{name} names a home folder that is not there"):
            files.as_path(name)
    assert cli._cache_folder() is None
    monkeypatch.setenv("HOME", "/home/a")
    assert str(files.as_path("~/runs/a")) == "/home/a/runs/a"
    assert os.fspath(datasets.default_data_dir()) == "/home/a/tensorflow_datasets"


# Runs a command for a user whom the system does not know.
UNKNOWN = """
import pwd, runpy, sys
def getpwuid(number):
    raise KeyError(number)
pwd.getpwuid = getpwuid
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def test_commands_without_a_home_say_what_they_need(tmp_path):
    (tmp_path / "empty").mkdir()
    environment = {**os.environ}
    for name in ("HOME", "TFDS_DATA_DIR", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        environment.pop(name, None)

    def call(name, *arguments):
        words = [sys.executable, "-c", UNKNOWN, f"jaxcovid.{name}", *map(str, arguments)]
        return runs.run(words, cwd=tmp_path / "empty", env=environment)

    process = call("prepare", "phantom")
    assert process.returncode == 1
    assert "there is no home folder: set HOME, or" in process.stderr
    assert "--data_dir=DIR" in process.stderr
    assert "Traceback" not in process.stderr
    process = call("train", "--config=configs/default.py", "--workdir=w")
    assert process.returncode == 1
    assert "Compiled programs are not kept (there is no home folder" in process.stderr
    assert "--data_dir=DIR" in process.stderr
    assert not list((tmp_path / "empty").iterdir())


def test_a_home_that_cannot_be_written_is_named(tmp_path, command, monkeypatch, caplog):
    (tmp_path / "file").touch()  # below a file root cannot write either
    home = str(tmp_path / "file")
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cli._cache_folder() is None
    assert "Compiled programs are not kept" in caplog.text
    process = command("prepare", "phantom", check=False, HOME=home, TFDS_DATA_DIR="")
    assert process.returncode == 1
    assert home in process.stderr
    assert "--data_dir" in process.stderr


def test_prepare_prints_no_progress_into_pipes(command, tmp_path):
    images = tmp_path / "images"
    for index in range(24):
        path = images / ("covid", "normal")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        import cv2

        cv2.imwrite(str(path), np.full((32, 32), 10 * index, np.uint8))
    process = command(
        "prepare", "folder", "--name=a", f"--source={images}", f"--data_dir={tmp_path}"
    )
    assert process.stdout.startswith("Preparing folder/a on")
    assert "Downloading" not in process.stdout
    for sign in ("%|", "it/s", "\r", "\x1b"):
        assert sign not in process.stdout + process.stderr


def test_ctrl_c_ends_a_prediction_quietly(trained, data_dir, tmp_path):
    image = next(pathlib.Path(data_dir).parent.glob("blobs*/test0.png"))
    (tmp_path / "images").mkdir()
    for index in range(2000):  # their rows do not fit into a pipe that nobody reads
        (tmp_path / "images" / f"{index}{'a' * 100}.png").symlink_to(image)
    with (tmp_path / "log").open("w") as log:
        process = runs.popen(
            [sys.executable, "-m", "jaxcovid.predict", f"--workdir={trained}", tmp_path / "images"],
            stdout=runs.subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout.readline().startswith("id,")
        process.send_signal(signal.SIGINT)
        rows = process.stdout.read().splitlines()
        assert process.wait(runs.TIMEOUT_S) == 130
    assert len(rows) < 2000
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("name", ["train", "evaluate", "audit", "prepare"])
def test_ctrl_c_ends_a_command_quietly(name, trained, data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    (digest,) = (tmp_path / "data").glob("folder/blobs/*/digest.json")
    digest.unlink()
    os.mkfifo(digest)  # who opens the data set waits for somebody who writes it
    words = {
        "train": runs.arguments(tmp_path / "w", tmp_path / "data"),
        "evaluate": (f"--workdir={trained}", f"--data_dir={tmp_path / 'data'}"),
        "audit": ("folder/blobs", f"--data_dir={tmp_path / 'data'}"),
        "prepare": ("folder", "--name=blobs", f"--data_dir={tmp_path / 'data'}"),
    }[name]
    with (tmp_path / "log").open("w") as log:
        process = runs.popen(
            [sys.executable, "-m", f"jaxcovid.{name}", *words],
            cwd=os.environ["PYTHONPATH"],
            stderr=log,
        )
        while True:
            try:
                writer = os.open(digest, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads it yet
                assert process.poll() is None
                time.sleep(0.01)
            else:
                break
        time.sleep(0.5)  # it has opened the file; a signal before it reads would not wake it
        process.send_signal(signal.SIGINT)
        assert process.wait(runs.TIMEOUT_S) == 130
        os.close(writer)
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_ctrl_c_that_comes_in_a_destructor_is_heard():
    code = """
from jaxcovid.runtime import user_errors
class Late:
    def __del__(self):
        raise KeyboardInterrupt
with user_errors.user_errors():
    late = Late()
    del late
    print("goes on", flush=True)
"""
    process = runs.run([sys.executable, "-c", code])
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "")


def test_workers_leave_ctrl_c_to_their_parent(data_dir, tmp_path):
    """To all of a terminal's processes at once, while workers start."""
    process = runs.start(tmp_path / "w", data_dir, *runs.WORKERS, hold=5, start_new_session=True)
    runs.wait_until_held(process)
    os.killpg(process.pid, signal.SIGINT)
    runs.release(process)
    status, log = runs.ended(process)
    assert status == 143, log
    assert "is saved. The same command resumes." in log
    assert "Traceback" not in log


def test_the_typed_command_line_can_be_typed_again():
    words = ["--config=a b.py:x", "--process_id=1", "--num_processes", "2", "--workdir", "it's"]
    typed = cli.typed("train", [*words, "--coordinator_address=h:1", "--config.epochs=5"])
    wanted = "python -m jaxcovid.train '--config=a b.py:x' --workdir 'it'\"'\"'s' --config.epochs=5"
    assert typed == wanted
