"""Trainings on several sources: options, shares, and whole runs."""

import json
import logging
import signal

import numpy as np
import pytest
import runs
from source_trees import prepare_source

from configs import default
from jaxcovid.data.labels import UNKNOWN
from jaxcovid.data.opening import open_dataset
from jaxcovid.training import mixture, splits
from jaxcovid.training.experiment import make_experiment
from jaxcovid.training.mixture import Mixture
from jaxcovid.training.validation import source_aucs
from jaxcovid.workdir import checkpoint_facts
from jaxcovid.workdir.checkpoint_facts import Validation

NAME = "folder/a+folder/b+folder/sick"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Two sources of both classes, `b` mostly of COVID-19, and one of COVID-19 alone with masks."""
    root, data = tmp_path_factory.mktemp("trees"), tmp_path_factory.mktemp("data")
    prepare_source("a", data, root, seed=1)
    counts = {split: {"COVID-19": 6, "normal": 2} for split in ("train", "validation", "test")}
    prepare_source("b", data, root, seed=2, counts=counts)
    counts = {split: {"COVID-19": 4} for split in ("train", "validation", "test")}
    prepare_source("sick", data, root, seed=3, counts=counts, masks=True)
    return data


def planned(sources, tmp_path, name=NAME, **options):
    config = default.get_config("debug")
    config.dataset = name
    config.update_from_flattened_dict(options)
    return make_experiment(config, open_dataset(name, sources), tmp_path / "w")


def shares(experiment):
    """The share of each stratum of a batch, by its source and target."""
    split, total = experiment.training, sum(s.share for s in experiment.training.strata)
    found = {}
    for stratum in split.strata:
        records = [split.source[i] for i in stratum.positions]
        (key,) = {(record["source"], float(split.encode(record)[0])) for record in records}
        found[key] = stratum.share / total
    return found


def test_without_options_every_image_comes_once_an_epoch(sources, tmp_path):
    for name in ("folder/a", "folder/a+folder/b"):
        assert planned(sources, tmp_path, name).training.strata == ()
    assert planned(sources, tmp_path, **{"epochs": 2.0}).plan.total_steps == 2 * 24 // 8


def test_weights_are_of_the_sources_and_balance_is_within_each(sources, tmp_path):
    options = {"mixture.weights": (2.0, 1.0, 1.0), "mixture.balance": "classes"}
    assert shares(planned(sources, tmp_path, **options)) == {
        ("folder/a", 1.0): 0.25,
        ("folder/a", 0.0): 0.25,
        ("folder/b", 1.0): 0.125,
        ("folder/b", 0.0): 0.125,
        ("folder/sick", 1.0): 0.25,
    }
    options = {"mixture.balance": "classes", "objective": "joint"}
    assert shares(planned(sources, tmp_path, **options)) == pytest.approx(
        {
            ("folder/a", 1.0): 6 / 24,
            ("folder/a", 0.0): 6 / 24,
            ("folder/b", 1.0): 4 / 24,
            ("folder/b", 0.0): 4 / 24,
            ("folder/sick", UNKNOWN): 4 / 24,
        }
    )


def test_a_source_of_one_class_teaches_its_masks_alone_if_joint(sources, tmp_path):
    joint = planned(sources, tmp_path, objective="joint", class_weights="balanced")
    assert joint.unlabelled == {"folder/sick"}
    for split in (joint.training, joint.validation):
        targets = {r["source"]: split.encode(r)[0] for r in split.source if "COVID" in r["id"]}
        assert targets == {"folder/a": 1, "folder/b": 1, "folder/sick": UNKNOWN}
    # 12 images with COVID-19 and 8 without
    np.testing.assert_allclose(joint.loss_weights[:, 0], [20 / 16, 20 / 24])
    named = planned(sources, tmp_path, **{"objective": "joint", "mixture.unlabelled": ()})
    assert named.unlabelled == joint.unlabelled
    assert not planned(sources, tmp_path).unlabelled


def test_the_sources_are_shown_and_those_that_tell_the_class_are_named(sources, caplog):
    dataset = open_dataset(NAME, sources)
    config = default.get_config()
    task = splits.make_task(config, dataset)
    rows = mixture.describe(dataset, task, frozenset({"folder/sick"})).splitlines()
    words = [" ".join(row.split()) for row in rows]
    assert words[0] == "source train / validation / test label in training counts as"
    assert words[2] == "folder/a 12 / 6 / 6 COVID-19 6 positive"
    assert words[5] == "folder/b 8 / 8 / 8 normal 2 negative"
    assert words[6] == "folder/sick 4 / 4 / 4 COVID-19 4 not used"
    with caplog.at_level(logging.WARNING):
        mixture.warn_of_telling_sources(dataset, task, frozenset({"folder/sick"}))
        assert not caplog.messages
        mixture.warn_of_telling_sources(dataset, task, frozenset())
    (message,) = caplog.messages
    assert "All training images of folder/sick are with COVID-19" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixture.weights": (1.0, 0.0, 1.0)}, "each must be above 0"),
        ({"mixture.weights": (1.0,)}, r"1 numbers for 3 sources \(folder/a, folder/b"),
        ({"mixture.balance": "source"}, "'source'; use one of none, classes"),
        ({"mixture.unlabelled": ("sick",)}, "has sick, no source of the training"),
        ({"mixture.unlabelled": ("folder/sick",)}, "use --config.objective=joint"),
        (
            {"mixture.unlabelled": ("folder/a",), "objective": "joint"},
            "has folder/a, of which no masks are known",
        ),
        ({"mixture.balance": "classes", "class_weights": "balanced"}, "come once an epoch"),
        ({"objective": "joint", "task": "multiclass"}, "which a softmax cannot leave out"),
    ],
)
def test_options_that_cannot_work(options, message, sources, tmp_path):
    with pytest.raises(ValueError, match=message):
        planned(sources, tmp_path, **options)


def test_checkpoints_are_ranked_by_the_mean_of_the_sources():
    probability = np.array([0.1, 0.2, 0.8, 0.9, 0.7])
    target = np.array([0, 1, 0, 1, 1])
    aucs = source_aucs(probability, target, np.array(["a", "a", "b", "b", "c"]))
    assert aucs == {"a": 1.0, "b": 1.0}
    assert source_aucs(probability, target, np.array([""] * 5)) == {}
    assert Validation(1, 0.5, 0.0, source_auc=aucs).score == 1.0
    assert Validation(1, 0.5, 0.0).score == 0.5
    assert Mixture((1, 2)).alters_shares


OPTIONS = (
    f"--config.dataset={NAME}",
    "--config.mixture.weights=(1.0,1.0,0.5)",
    "--config.mixture.balance=classes",
    "--config.objective=joint",
    "--config.epochs=8",
    "--config.cache=disk",
)
STEPS = 24


@pytest.mark.long
def test_a_run_that_is_killed_resumes_bit_for_bit_and_is_evaluated(sources, tmp_path, command):
    whole, killed, data = tmp_path / "whole", tmp_path / "killed", f"--data_dir={sources}"
    log = runs.finish(whole, sources, *OPTIONS)
    assert "not used" in log
    runs.end_at(signal.SIGKILL, 14, killed, sources, *OPTIONS)
    runs.finish(killed, sources, *OPTIONS, *runs.WORKERS)
    runs.same_run(whole, killed, STEPS)

    validation = checkpoint_facts.read_facts(whole, STEPS).validation
    assert validation.source_auc.keys() == {"folder/a", "folder/b"}
    assert "validation/auc_folder/a" in runs.text(whole)
    command("evaluate", f"--workdir={whole}", data)
    metrics = json.loads((whole / "evaluation" / "test" / "metrics.json").read_text())
    assert metrics["run"]["dataset"] == NAME
    by_source = {row["value"]: row for row in metrics["subgroups"] if row["group"] == "source"}
    assert by_source.keys() == {"folder/a", "folder/b", "folder/sick"}
    for split, seen in (("train", True), ("validation", False), ("test", False)):
        asked = ("--dataset=folder/a", f"--split={split}")
        done = command("evaluate", f"--workdir={whole}", data, *asked, check=not seen)
        assert ("that is no test" in done.stderr) == seen
