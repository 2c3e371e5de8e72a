"""launch/leave_one_source_out.sh, as typed, on small folders of images."""

import importlib.util
import json
import os
import pathlib
import shutil
import sys

import pytest
import runs
import source_trees

REPOSITORY = pathlib.Path(__file__).parents[1]


def write_test(workdir, auc, *, share=None):
    """What an evaluation on a source leaves: ten patients, the label of each second one is 1."""
    folder = workdir / "evaluation" / "a" / "test"
    folder.mkdir(parents=True)
    score = {"value": auc, "low": auc - 0.1, "high": auc + 0.1}
    segmentation = {"auc": {"value": share, "low": None, "high": None}} if share else None
    metrics = {"auc": score, "positive_class": "COVID-19", "segmentation": segmentation}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    lines = [f"{i},{i},{i % 2},{(i * auc) % 1}" for i in range(10)]
    (folder / "predictions.csv").write_text("\n".join(["id,patient,label,probability", *lines]))


def test_the_share_involved_has_a_line_of_its_own(tmp_path):
    spec = importlib.util.spec_from_file_location(
        "unseen_table", REPOSITORY / "launch" / "unseen_table.py"
    )
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    write_test(tmp_path / "a" / "lungs" / "0", 0.7)
    write_test(tmp_path / "a" / "lesion" / "0", 0.8, share=0.5)
    write_test(tmp_path / "a" / "lesion" / "1", 0.75, share=0.6)
    (tmp_path / "a" / "lesion" / "2").mkdir()
    lines = list(table.lines(tmp_path))
    assert [line[:4] for line in lines] == [
        ("a", "lungs", "0.700", "0.600 to 0.800"),
        ("a", "lesion", "0.800, 0.750", "0.700 to 0.900"),
        ("a", "lesion: share involved", "0.500, 0.600", ""),
    ]
    assert [bool(line[4]) for line in lines] == [False, True, False]


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
