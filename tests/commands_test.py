"""Everything a user can type: help, bad input, and the commands of the README."""

import pathlib
import re
import shlex
import shutil

import pytest
from covid_ct_tree import make_tree

REPOSITORY = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["prepare", "audit", "train", "evaluate", "predict", "benchmark"])
def test_help(name, command):
    process = command(name, "--help", check=False)
    assert ("--data_dir" in process.stdout) == (name != "predict")
    assert f"python -m jaxcovid.{name}" in process.stdout


@pytest.mark.parametrize("name", ["status", "export"])
def test_help_of_what_needs_a_workdir_alone(name, command):
    assert "--workdir" in command(name, "--help", check=False).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "--workdir=nowhere"), "not a workdir"),
        (("predict", "--workdir=nowhere", "README.md"), "not a workdir"),
        (("predict", "--model=nowhere", "README.md"), "nowhere holds no manifest.json"),
        (("predict", "--workdir=nowhere", "none.png"), "no image or folder none.png"),
        (("prepare", "covid_ct", "--source=nowhere"), "nowhere"),
        (("prepare", "folder", "--window=-600"), "'-600' is no CENTRE,WIDTH"),
        (("predict", "--workdir=w", "--window=-600,0", "a.png"), "is above 0, not 0"),
        (("train", "--config=configs/covid_ct.py", "--workdir=w"), "jaxcovid.prepare covid_ct"),
        (
            ("train", "--config=configs/covid_ct.py", "--config.batchsize=8", "--workdir=w"),
            'Did you mean "batch_size"',
        ),
        (
            ("train", "--config=configs/covid_ct.py", "--config.model.x.y=8", "--workdir=w"),
            "configs/default.py lists them",
        ),
        (
            ("train", "--config=configs/covid_ct.py", "--config.batch_size=big", "--workdir=w"),
            "batch_size",
        ),
    ],
)
def test_bad_input_is_one_clear_message(arguments, message, command, tmp_path):
    data_dir = () if arguments[0] == "predict" else (f"--data_dir={tmp_path}",)
    process = command(*arguments, *data_dir, check=False)
    assert process.returncode != 0
    assert message in process.stderr
    assert "Traceback" not in process.stderr
    assert not (REPOSITORY / "w").exists()


def test_a_workdir_that_cannot_be_written_is_named(command, tmp_path, data_dir):
    (tmp_path / "file").write_text("")
    process = command(
        "train",
        "--config=configs/default.py:debug",
        "--config.dataset=folder/blobs",
        f"--data_dir={data_dir}",
        f"--workdir={tmp_path / 'file' / 'run'}",
        check=False,
    )
    assert process.returncode == 1
    assert str(tmp_path / "file") in process.stderr
    assert "Traceback" not in process.stderr


def documented_commands():
    """The commands of the documentation's blocks that follow a line `<!-- tested -->`.

    Data sets are prepared first: a page may use what another one prepares.
    """
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    text = "\n".join(page.read_text() for page in pages)
    blocks = re.findall(r"<!-- tested -->\n```bash\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.strip() and not line.startswith("#")]
    return sorted(commands, key=lambda line: "jaxcovid.prepare" not in line)


@pytest.mark.long
def test_the_commands_of_the_readme_run(command, tmp_path):
    make_tree(tmp_path / "COVID-CT")
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    for group, folder in (("CT_COVID", "covid"), ("CT_NonCOVID", "other")):
        images = tmp_path / "COVID-CT" / "Images-processed" / group
        shutil.copytree(images, tmp_path / "my_images" / folder)
    commands = documented_commands()
    assert len(commands) >= 8
    for line in commands:
        words = shlex.split(line)
        assert words[:2] == ["python", "-m"], line
        name = words[2].removeprefix("jaxcovid.")
        # Each in its short form: a narrow network and a few steps.
        words = [re.sub(r"^(--config=\S+\.py)$", r"\1:debug", w) for w in words[3:]]
        words = [re.sub(r"^(--config=\S+):scratch$", r"\1:scratch,debug", w) for w in words]
        command(name, *words, cwd=tmp_path, TFDS_DATA_DIR=str(tmp_path / "data"))
