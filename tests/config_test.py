import importlib
import json
import pathlib

import pytest

from jaxcovid import train
from jaxcovid.data.labels import Task
from jaxcovid.runtime import files
from jaxcovid.workdir.run import PartSummary, Run, RunDataset, WorkdirError

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
NAMES = sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem != "__init__")


def get(name, variant=""):
    return importlib.import_module(f"configs.{name}").get_config(variant)


def options(config, prefix=""):
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from options(value, f"{prefix}{key}.")
        else:
            yield prefix + key


@pytest.mark.parametrize("name", NAMES)
def test_every_config_and_variant_has_the_options_of_the_default(name):
    module = importlib.import_module(f"configs.{name}")
    for variant in ("", *getattr(module, "VARIANTS", ["debug"])):
        assert set(options(get(name, variant))) == set(options(get("default")))
    with pytest.raises(ValueError, match="nonsense"):
        get(name, "nonsense")


def test_the_default_is_the_papers_optimizer():
    config = get("covid_ct")
    assert config.optimizer.learning_rate == 1e-5
    assert config.optimizer.schedule == "constant"
    assert config.preprocessing.size == 256


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"model.attention": "big"}, "model.attention is 'big'; use one of"),
        ({"batch_size": 0}, "not divisible"),
        ({"epochs": 0.0}, "epochs is 0.0"),
        ({"preprocessing.mean": 100.0}, "mean"),
        ({"optimizer.schedule": "linear"}, "optimizer.schedule"),
        ({"optimizer.accumulate_steps": 0}, "accumulate_steps"),
        ({"class_weights": "heavy"}, "class_weights"),
        ({"batch_norm": "local"}, "batch_norm"),
        ({"positive_class": "flu"}, "positive_class 'flu' is not a class"),
        ({"task": "one_vs_rest"}, "needs 3 classes"),
        ({"task": "multilabel"}, "has classes"),
        ({"network": "resnet"}, "network is 'resnet'; use one of"),
        ({"parts.part1.workdir": "runs/a"}, r"use --config\.network=deep_cxr_net"),
        ({"network": "deep_cxr_net", "fusion.width": 0}, "fusion.width 0"),
        ({"network": "deep_cxr_net", "parts.part1.workdir": "runs/a"}, "runs/a is not a workdir"),
        ({"workers": -1}, "workers"),
        ({"save_every_steps": 0}, "save_every_steps"),
    ],
)
def test_impossible_options_fail_before_anything_is_written(tmp_path, data_dir, override, message):
    config = get("default", "debug")
    config.dataset = "folder/blobs"
    config.update_from_flattened_dict(override)
    with pytest.raises(ValueError, match=message):
        train.run(config, workdir=tmp_path / "run", data_dir=data_dir)
    assert not (tmp_path / "run").exists()


def test_a_data_set_that_is_not_prepared_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m jaxcovid\.prepare covid_ct"):
        train.run(get("covid_ct"), workdir=tmp_path / "run", data_dir=tmp_path)


def a_run(command=None, **options):
    config = json.loads(get("default", "debug").to_json())
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


def test_folders_are_paths_or_urls():
    assert files.as_path("runs/a") == pathlib.Path("runs/a")
    assert files.as_path("file:///runs/a") == pathlib.Path("/runs/a")
    remote = files.as_path("gs://bucket/a")
    assert str(remote / "b") == "gs://bucket/a/b"
    assert files.is_remote(remote)
    assert not files.is_remote(files.as_path("file:///runs/a"))
    with pytest.raises(ValueError, match="s3://bucket/a is no folder; give a path"):
        files.as_path("s3://bucket/a")
