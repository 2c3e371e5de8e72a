"""launch/leave_one_source_out.sh, as typed, on small folders of images."""

import os
import pathlib
import shutil
import sys

import pytest
import runs
import source_trees

REPOSITORY = pathlib.Path(__file__).parents[1]


@pytest.mark.long
def test_each_source_is_left_out_and_tested_on(tmp_path):
    data = tmp_path / "data"
    for seed, name in enumerate(("a", "b")):
        source_trees.prepare_source(name, data, tmp_path / "sources", seed=seed)
    launch = tmp_path / "launch"
    launch.mkdir()
    for name in ("leave_one_source_out.sh", "options.sh", "unseen_table.py"):
        shutil.copy(REPOSITORY / "launch" / name, launch)
    # This interpreter instead of an environment of its own.
    (launch / "environment.sh").write_text(
        f'environment() {{ :; }}\npython() {{ "{sys.executable}" "$@"; }}\n'
    )
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    words = ["bash", str(launch / "leave_one_source_out.sh"), str(tmp_path / "runs")]
    words += ["folder/a,folder/b", f"--data_dir={data}", "--config.epochs=1"]
    words += ["--config.preprocessing.size=64", "--config.batch_size=8", "--config.init.weights="]
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "1",
        "VARIANTS": "scratch augmented",
        "PYTHONPATH": str(REPOSITORY),
    }
    for finished in (0, 4):
        process = runs.run(words, env=environment)
        assert process.returncode == 0, process.stderr
        assert process.stdout.count("is finished") == finished
    table = (tmp_path / "runs" / "table.md").read_text().splitlines()
    assert [line.split("|")[1:3] for line in table[2:]] == [
        [" folder-a   ", " scratch   "],
        [" folder-a   ", " augmented "],
        [" folder-b   ", " scratch   "],
        [" folder-b   ", " augmented "],
    ]
    assert all("+" in line or "-" in line.split("|")[5] for line in table[3::2])
    refused = runs.run(words, env={**environment, "VARIANTS": "lungs"})
    assert refused.returncode
    assert "names no workdir of a network that segments" in refused.stderr
