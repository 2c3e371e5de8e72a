import importlib
import pathlib

import pytest

from jaxcovid import train
from jaxcovid.runtime import files
from jaxcovid.workdir import run as workdirs

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
        ({"outputs": "three_way"}, "needs 3 classes"),
        ({"outputs": "findings"}, "has classes"),
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


FACTS = {
    "config": {
        "batch_size": 8,
        "workers": 0,
        "model": {"head": "gap"},
        **dict.fromkeys(("network", "outputs", "control"), ""),
        **{name: {} for name in ("fusion", "parts", "preprocessing")},
    },
    "dataset": {"name": "d", "modality": "CT", "window": [-600, 1500], "class_names": ["a", "b"]},
    "outputs": ["a"],
}


def test_a_workdir_belongs_to_one_run(tmp_path):
    workdirs.claim(tmp_path / "run", FACTS)
    workdirs.claim(tmp_path / "run", FACTS)
    free = {**FACTS, "config": {**FACTS["config"], "workers": 4}}
    workdirs.claim(tmp_path / "run", free)
    assert workdirs.read(tmp_path / "run")["config"]["workers"] == 0
    other = {**FACTS, "config": {**FACTS["config"], "batch_size": 16, "model": {"head": "flatten"}}}
    with pytest.raises(workdirs.WorkdirError) as error:
        workdirs.claim(tmp_path / "run", other)
    assert "config.batch_size: 8 in the workdir, 16 now" in str(error.value)
    assert "config.model.head: 'gap' in the workdir, 'flatten' now" in str(error.value)


def test_a_workdir_keeps_the_command_of_its_start(tmp_path, caplog):
    caplog.set_level("INFO")
    workdirs.claim(tmp_path / "old", FACTS)
    workdirs.claim(tmp_path / "old", {**FACTS, "command": "second"})
    assert "command" not in workdirs.read(tmp_path / "old")
    for command in ("first", "first"):
        workdirs.claim(tmp_path / "run", {**FACTS, "command": command})
    assert not caplog.text
    free = {**FACTS["config"], "workers": 4}
    workdirs.claim(tmp_path / "run", {**FACTS, "config": free, "command": "second"})
    assert workdirs.read(tmp_path / "run")["command"] == "first"
    assert "was started by another command, which it keeps:\n  first" in caplog.text


def test_folders_that_are_no_workdirs(tmp_path):
    with pytest.raises(workdirs.WorkdirError, match="does not exist"):
        workdirs.read(tmp_path / "none")
    with pytest.raises(workdirs.WorkdirError, match=r"holds no run\.json"):
        workdirs.read(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(workdirs.WorkdirError, match="damaged"):
        workdirs.read(tmp_path)
    (tmp_path / "run.json").write_text('{"format_version": 99}')
    with pytest.raises(workdirs.WorkdirError, match="format 99"):
        workdirs.read(tmp_path)


def test_folders_are_paths_or_urls():
    assert files.as_path("runs/a") == pathlib.Path("runs/a")
    assert files.as_path("file:///runs/a") == pathlib.Path("/runs/a")
    remote = files.as_path("gs://bucket/a")
    assert str(remote / "b") == "gs://bucket/a/b"
    assert files.is_remote(remote)
    assert not files.is_remote(files.as_path("file:///runs/a"))
    with pytest.raises(ValueError, match="s3://bucket/a is no folder; give a path"):
        files.as_path("s3://bucket/a")
