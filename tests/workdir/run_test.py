"""What `run.json` says of a run, and that a workdir belongs to one."""

import json

import pytest

from configs import default
from jaxcovid.data.labels import Task
from jaxcovid.workdir.run import Run, RunDataset, WorkdirError
from jaxcovid.workdir.summaries import PartSummary


def a_run(command=None, **options):
    config = json.loads(default.get_config("debug").to_json())
    run = Run(
        config={**config, **options},
        dataset=RunDataset("d", "12", "CT", (-600.0, 1500.0), None, ("a", "b"), ""),
        task=Task("binary", ("a",)),
        parts={"part1": PartSummary("e", ("x", "y"), 3, "34")},
        versions={"jax": "1"},
        command=command,
    )
    assert run.to_json() == json.loads(json.dumps(run.to_json()))
    return run


def test_a_run_comes_back_as_it_was(tmp_path):
    a_run("typed").claim(tmp_path / "run")
    loaded = Run.load(tmp_path / "run")
    assert loaded == a_run("typed")
    assert loaded.preprocessing.size == 64
    assert (loaded.ablation, loaded.seed) == ("none", 0)


def test_a_workdir_belongs_to_one_run(tmp_path):
    a_run().claim(tmp_path / "run")
    a_run().claim(tmp_path / "run")
    a_run(workers=4).claim(tmp_path / "run")
    assert Run.load(tmp_path / "run").config["workers"] == 0
    model = {**a_run().config["model"], "head": "gap"}
    with pytest.raises(WorkdirError) as error:
        a_run(batch_size=16, model=model).claim(tmp_path / "run")
    assert "config.batch_size: 8 in the workdir, 16 now" in str(error.value)
    assert "config.model.head: 'flatten' in the workdir, 'gap' now" in str(error.value)


def test_a_workdir_from_before_an_option_can_be_resumed(tmp_path):
    a_run().claim(tmp_path / "run")
    facts = json.loads((tmp_path / "run/run.json").read_text())
    del facts["config"]["model"]["backbone"]
    (tmp_path / "run/run.json").write_text(json.dumps(facts))
    assert Run.load(tmp_path / "run").config["model"]["backbone"] == "densenet121"
    a_run().claim(tmp_path / "run")
    model = {**a_run().config["model"], "backbone": "resnet50"}
    with pytest.raises(WorkdirError, match="'densenet121' in the workdir, 'resnet50' now"):
        a_run(model=model).claim(tmp_path / "run")


def test_a_workdir_keeps_the_command_of_its_start(tmp_path, caplog):
    caplog.set_level("INFO")
    a_run().claim(tmp_path / "old")
    a_run("second").claim(tmp_path / "old")
    assert Run.load(tmp_path / "old").command is None
    for command in ("first", "first"):
        a_run(command).claim(tmp_path / "run")
    assert not caplog.text
    a_run("second", workers=4).claim(tmp_path / "run")
    assert Run.load(tmp_path / "run").command == "first"
    assert "was started by another command, which it keeps:\n  first" in caplog.text


def test_folders_that_are_no_workdirs(tmp_path):
    with pytest.raises(WorkdirError, match="does not exist"):
        Run.load(tmp_path / "none")
    with pytest.raises(WorkdirError, match=r"holds no run\.json"):
        Run.load(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(WorkdirError, match="damaged"):
        Run.load(tmp_path)
    (tmp_path / "run.json").write_text('{"format_version": 99}')
    with pytest.raises(WorkdirError, match="format 99"):
        Run.load(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [("three_way", "one_vs_rest"), ("two_way", "multiclass"), ("findings", "multilabel")],
)
def test_the_run_of_the_first_release_is_translated_and_resumed(old, new, tmp_path):
    run = a_run(task=new)
    facts = run.to_json()
    config = facts["config"]
    config["outputs"], config["control"] = old, config.pop("ablation")
    config["model"]["growth"] = config["model"].pop("growth_rate")
    config["optimizer"]["head_rate_factor"] = config["optimizer"].pop("head_lr_multiplier")
    del config["task"], facts["dataset"]["hu_offset"]
    (tmp_path / "run.json").write_text(json.dumps({**facts, "format_version": 2}))
    assert Run.load(tmp_path).config == run.config
    run.claim(tmp_path)
