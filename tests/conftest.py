"""Eight virtual CPU devices, rank promotion an error, and the small data sets of the tests."""

import os
import pathlib
import shutil
import subprocess
import sys

# Before JAX starts; processes that tests start inherit it.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
# Two test processes on two cores: threads of OpenBLAS beside them wait for one another.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
REPOSITORY = pathlib.Path(__file__).parents[1]
os.environ["PYTHONPATH"] = str(REPOSITORY)
sys.path.insert(0, str(REPOSITORY / "tests"))

import jax
import numpy as np
import pytest
from absl import flags, logging

from jaxcovid import prepare

flags.FLAGS.mark_as_parsed()  # grain's worker processes ask for them
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache():
    """Compiled once for all tests, processes and later runs."""
    folder = str(REPOSITORY / ".pytest_cache" / "jax")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    jax.config.update("jax_compilation_cache_dir", folder)


@pytest.fixture(autouse=True)
def end_what_was_started():
    """However a test ends, nothing that it started outlives it."""
    import runs

    yield
    runs.end_all()


@pytest.fixture(autouse=True)
def keep_verbosity():
    """Commands that a test calls set how much is logged; the next test starts as the first did."""
    logger = logging.get_absl_logger()
    verbosity, level = logging.get_verbosity(), logger.level
    yield
    logging.set_verbosity(verbosity)  # sets the level as well, to one that caplog does not change
    logger.setLevel(level)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A data directory with `folder/blobs`: 40 small images of two easily told classes."""
    import cv2

    images = tmp_path_factory.mktemp("blobs")
    rows = ["path,label,patient,split"]
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 9), ("test", 11)):
        for i in range(count):
            positive = i % 2
            image = rng.integers(60, 120, (70 + i, 80, 1), np.uint8).repeat(3, -1)
            if positive:
                cv2.circle(image, (20 + 2 * i, 40), 14, (230, 230, 230), -1)
            name = f"{split}{i}.png"
            cv2.imwrite(str(images / name), image)
            label = "COVID-19" if positive else "normal"
            rows.append(f"{name},{label},{split}-patient{i // 3},{split}")
    (images / "table.csv").write_text("\n".join(rows) + "\n")
    directory = tmp_path_factory.mktemp("data")
    prepare.build("folder/blobs", directory, csv=str(images / "table.csv"))
    return directory


@pytest.fixture(scope="session")
def trained(tmp_path_factory, data_dir):
    """The workdir of a whole training on `folder/blobs`, see `runs`; tests add evaluations only."""
    import runs

    workdir = tmp_path_factory.mktemp("trained") / "whole"
    runs.finish(workdir, data_dir)
    return workdir


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """A data directory with the phantom."""
    directory = tmp_path_factory.mktemp("phantom")
    prepare.build("phantom", directory)
    return directory


REAL = {
    "covid_ct": ("COVID-CT", {}),
    "covid_chestxray": ("covid-chestxray-dataset", {"allow_missing": True}),
    "chest_xray_pneumonia": ("chest_xray", {}),
    "chestxray14": ("ChestX-ray14", {}),
}


@pytest.fixture(scope="session")
def real_data(tmp_path_factory):
    """Prepared real data sets; those that are not there are not prepared."""
    root = os.environ.get("JAXCOVID_DATA")
    if not root:
        pytest.skip("JAXCOVID_DATA is not set")
    directory = tmp_path_factory.mktemp("real")
    for name, (folder, options) in REAL.items():
        source = pathlib.Path(root) / folder
        if source.is_dir():
            prepare.build(name, directory, source=str(source), **options)
    return directory


def open_real(name, directory):
    """A data set of `real_data`; skips the test without it."""
    from jaxcovid.data.opening import open_dataset

    try:
        return open_dataset(name, directory)
    except FileNotFoundError:
        pytest.skip(f"JAXCOVID_DATA has no {REAL[name][0]}/")


@pytest.fixture
def command():
    """Runs `python -m jaxcovid.NAME ARGUMENTS` on one device; returns the finished process."""

    import runs

    def run(name, *arguments, cwd=REPOSITORY, check=True, **environment):
        process = runs.run(
            [sys.executable, "-m", f"jaxcovid.{name}", *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", **environment},
        )
        if check and process.returncode:
            raise AssertionError(f"{process.args}\n{process.stdout}\n{process.stderr}")
        return process

    return run


@pytest.fixture
def slurm(tmp_path):
    """Runs a SLURM command on a SLURM that lives for one test."""
    scripts = os.environ.get("JAXCOVID_SLURM")
    if not scripts:
        pytest.skip("JAXCOVID_SLURM does not name a folder with up.sh and down.sh")
    if os.geteuid() or not shutil.which("slurmctld"):
        pytest.skip("a SLURM of one's own needs root, slurm-wlm and munge")
    folder = tmp_path / "slurm"
    import runs

    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def run(*words, cwd=None, **more):
        process = runs.run(words, env={**environment, **more}, cwd=cwd or tmp_path)
        assert process.returncode == 0, process.stderr
        return process.stdout.strip()

    try:
        subprocess.run(["bash", f"{scripts}/up.sh", folder], check=True, stdout=subprocess.DEVNULL)
        yield run
    finally:
        subprocess.run(["bash", f"{scripts}/down.sh", folder], check=True)
