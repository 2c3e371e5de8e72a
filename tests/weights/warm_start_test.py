"""Trainings that begin with weights: of a converted file, and of another training."""

import json
import shutil
import signal
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from flax import traverse_util

import jaxcovid
from jaxcovid.data import identity
from jaxcovid.models.densenet import DenseNet
from jaxcovid.weights.converted import ConvertedWeights, Input, Origin
from jaxcovid.weights.warm_start import find
from jaxcovid.workdir.run import Run

DEBUG = {"growth_rate": 8, "depths": (2, 2, 2, 2)}  # as the variant `debug` has it


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A generated backbone in the form of `convert`."""
    model, image = DenseNet(**DEBUG), jnp.zeros((1, 64, 64, 1))
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(7), image)
    variables["batch_stats"] = jax.tree.map(lambda x: x + 0.25, variables["batch_stats"])
    variables = {name: {"backbone": tree} for name, tree in variables.items()}
    flat = traverse_util.flatten_dict(variables, sep="/")
    weights = ConvertedWeights(
        variables={name: np.asarray(array) for name, array in flat.items()},
        backbone="densenet121",
        origin=Origin("torchvision", "https://example.org", "BSD-3-Clause", "made.pth", "12"),
        input=Input(3, 0.0, 255.0, preprocessing_mean=100.0, preprocessing_std=50.0),
    )
    folder = tmp_path_factory.mktemp("converted") / "weights"
    weights.write(folder)
    return folder, weights.variables


def train(command, data_dir, workdir, config, *options, **more):
    return command(
        "train",
        f"--config={config}",
        "--config.dataset=folder/blobs",
        f"--workdir={workdir}",
        f"--data_dir={data_dir}",
        *(f"--config.{option}" for option in options),
        **more,
    )


def arrays_of(workdir):
    variables = jaxcovid.load(workdir).variables
    return traverse_util.flatten_dict(dict(variables), sep="/")


def test_the_features_of_imagenet_are_loaded_kept_while_frozen_and_accounted_for(
    converted, data_dir, tmp_path, command
):
    folder, weights = converted
    shutil.copytree(folder, tmp_path / "weights")
    arguments = (
        "configs/covid_ct.py:imagenet,debug",
        f"init.weights={tmp_path / 'weights'}",
        "init.freeze_epochs=1",
        "epochs=1",
    )
    log = train(command, data_dir, tmp_path / "run", *arguments).stderr
    assert "torchvision, made.pth (licence: BSD-3-Clause)" in log
    assert "were prepared in another way: mean 100.0, here 114.5, std 50.0, here 57.6" in log
    assert "Frozen up to step 3: backbone" in log
    after = arrays_of(tmp_path / "run")
    for name, array in weights.items():
        np.testing.assert_array_equal(after[name], array)
    init = json.loads((tmp_path / "run/run.json").read_text())["init"]
    assert init["source"] == "densenet121 of torchvision, made.pth"
    assert init["licence"] == "BSD-3-Clause"
    assert len(init["sha256"]) == 64
    assert not (tmp_path / "run" / identity.INIT_FOLDER).exists()
    # A run that is resumed has weights of its own.
    shutil.rmtree(tmp_path / "weights")
    assert "was finished before" in train(command, data_dir, tmp_path / "run", *arguments).stderr


def test_a_training_begins_where_another_ended(trained, data_dir, tmp_path, command):
    log = train(
        command,
        data_dir,
        tmp_path / "run",
        "configs/default.py:debug",
        f"init.weights={trained}",
        "init.what=everything",
        "init.freeze_epochs=1",
        "init.layer_decay=0.5",
        "optimizer.learning_rate=1e-9",
        "epochs=2",
    ).stderr
    assert "Frozen up to step 3: backbone and pyramid_attention" in log
    before, after = arrays_of(trained), arrays_of(tmp_path / "run")
    assert before.keys() == after.keys()
    for name in before:
        if name.startswith("params/"):
            np.testing.assert_allclose(after[name], before[name], atol=1e-7)
    # It has learned from the images of both trainings.
    assert len(jaxcovid.load(tmp_path / "run").trained_on()["train"]) == 2
    step = jaxcovid.load(trained).step
    assert Run.load(tmp_path / "run").init.source == f"deep_ct_net on folder/blobs, step {step}"


@pytest.mark.long
def test_killed_while_frozen_and_afterwards_it_is_the_same_run(trained, data_dir, tmp_path):
    options = (f"--config.init.weights={trained}", "--config.init.freeze_epochs=20")
    log = runs.finish(tmp_path / "whole", data_dir, *options)
    assert "Frozen up to step 60: backbone" in log
    for step in (30, 75):
        status, _ = runs.end_at(signal.SIGKILL, step, tmp_path / "killed", data_dir, *options)
        assert status == -signal.SIGKILL
    runs.finish(tmp_path / "killed", data_dir, *options)
    runs.same_run(tmp_path / "whole", tmp_path / "killed")


def test_other_weights_than_the_run_was_started_with_are_refused(converted, trained, tmp_path):
    workdir, (folder, _) = tmp_path / "run", converted
    new = find(workdir, str(folder), what="backbone")
    assert new.weights is not None
    workdir.mkdir()
    facts = json.loads((trained / "run.json").read_text())
    facts["init"] = {"source": "a", "licence": "", "sha256": new.summary.sha256}
    (workdir / "run.json").write_text(json.dumps(facts))
    begun = find(workdir, "nowhere", what="backbone")
    assert begun.weights is None
    facts["init"]["sha256"] = "12"
    (workdir / "run.json").write_text(json.dumps(facts))
    begun = find(workdir, str(folder), what="backbone")
    with pytest.raises(ValueError, match="holds other weights than when this run was started"):
        begun.load({}, Run.load(workdir))


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="which holds none; give a folder that python -m jaxcovid"):
        find(tmp_path / "run", str(tmp_path), what="backbone")
