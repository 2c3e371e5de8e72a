"""What pip installs, and that it works from any folder; what prediction needs at import."""

import pathlib
import shutil
import sys
import zipfile

import pytest
import runs

REPOSITORY = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The unpacked wheel of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("jaxcovid", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, folder / "source" / name, ignore=ignored)
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / "source")
    build = ("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    process = runs.run(
        [sys.executable, "-m", "pip", *build, f"--wheel-dir={folder}", folder / "source"]
    )
    assert process.returncode == 0, process.stderr
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_has_one_package_and_all_files(wheel):
    packages = {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")}
    assert packages == {"jaxcovid"}
    for folder, installed in (("jaxcovid", "jaxcovid"), ("configs", "jaxcovid/configs")):
        for path in (REPOSITORY / folder).rglob("*.*"):
            if path.suffix in (".py", ".jinja"):
                name = path.relative_to(REPOSITORY / folder)
                assert (wheel / installed / name).read_bytes() == path.read_bytes()


def test_commands_and_configs_of_the_wheel_work_from_an_empty_folder(wheel, command, tmp_path):
    def train(config, *more):
        return command(
            "train",
            f"--config={config}",
            *more,
            f"--workdir={tmp_path / 'w'}",
            f"--data_dir={tmp_path}",
            cwd=tmp_path,
            check=False,
            PYTHONPATH=str(wheel),
        ).stderr

    help_text = command("train", "--help", cwd=tmp_path, check=False, PYTHONPATH=str(wheel)).stdout
    assert "--workdir" in help_text
    for config in sorted((REPOSITORY / "configs").glob("[!_]*.py")):
        said = train(f"configs/{config.name}")
        assert "is not prepared" in said, said
    assert "there are scratch, lite0, debug" in train("configs/deep_cxr_net.py:nonsense")
    # A file of the user's own, beside a package of the same name and a file that hides none.
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/default.py").write_text("raise RuntimeError('of another project')")
    assert "is not prepared" in train("configs/covid_ct.py")
    (tmp_path / "configs/default.py").unlink()
    (tmp_path / "configs/mine.py").write_text(
        "from configs import default\n"
        "def get_config(variant=''):\n"
        "    config = default.get_config(variant)\n"
        "    config.dataset = 'phantom/' + variant\n"
        "    return config\n"
    )
    assert "'phantom/debug' is not prepared" in train("configs/mine.py:debug")
    said = train("configs/none.py")
    assert "there is no configuration configs/none.py" in said
    assert "configs/covid_ct.py" in said
    assert "Traceback" not in said


def test_configs_of_the_checkout_work_from_another_folder(command, tmp_path):
    arguments = ("--workdir=w", f"--data_dir={tmp_path}", "--config=configs/cxr_part1.py")
    said = command("train", *arguments, cwd=tmp_path, check=False).stderr
    assert "'chexpert' is not prepared" in said, said


def test_prediction_imports_nothing_that_windows_lacks(tmp_path):
    code = """
import sys
for name in ("fcntl", "grp", "pwd", "resource", "syslog", "termios"):
    sys.modules[name] = None  # to import it is an ImportError
import jaxcovid.predict, jaxcovid.inference.predictor, jaxcovid.workdir.run
from jaxcovid.runtime import cli
from jaxcovid.runtime.user_errors import user_errors
from jaxcovid.inference import overlay
with user_errors():
    list(jaxcovid.predict.run(jaxcovid.predict.as_path("nowhere"), [sys.executable]))
"""
    process = runs.run([sys.executable, "-c", code], cwd=tmp_path)
    assert process.stderr.startswith("error: nowhere is not a workdir"), process.stderr


@pytest.mark.parametrize("network", ["jax_network", "linen_network"])
def test_contestants_import_no_more_than_jax_flax_optax_and_numpy(network):
    code = """
import runpy, sys
for name in ("clu", "cv2", "grain", "ml_collections", "orbax", "sklearn", "tensorflow_datasets"):
    sys.modules[name] = None  # to import it is an ImportError
runpy.run_module("jaxcovid.benchmarks.contestants." + sys.argv.pop(1), run_name="__main__")
"""
    process = runs.run([sys.executable, "-c", code, network, "--help"], cwd=REPOSITORY)
    assert "--compile_only" in process.stdout, process.stderr
