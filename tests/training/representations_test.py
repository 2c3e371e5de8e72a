"""Whole runs without labels: they learn, resume as the same, and a screening begins with them."""

import json
import shutil
import signal

import numpy as np
import pytest
import runs
from flax import traverse_util
from xray_trees import make_chestxray14

import jaxcovid
from configs import pretrain
from jaxcovid import prepare, train
from jaxcovid.inference.trained_on import trained_on
from jaxcovid.weights.initial import open_weights
from jaxcovid.workdir import checkpoint_facts
from jaxcovid.workdir.run import Run, WorkdirError

CONTRASTIVE = ("--config.objective=contrastive", "--config.epochs=40")


def distilling(teacher):
    return ("--config.objective=distillation", f"--config.distillation.teachers=('{teacher}',)")


@pytest.fixture(scope="module")
def contrastive(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("contrastive") / "w"
    runs.finish(workdir, data_dir, *CONTRASTIVE)
    return workdir


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, data_dir, trained):
    """A run whose teacher is another, which is gone when it ends."""
    folder = tmp_path_factory.mktemp("distilled")
    shutil.copytree(trained, folder / "teacher")
    log = runs.finish(folder / "w", data_dir, *distilling(folder / "teacher"))
    assert "teacher1: deep_ct_net on folder/blobs, step" in log
    shutil.rmtree(folder / "teacher")
    return folder / "w"


def history(workdir):
    return checkpoint_facts.read_facts(workdir, runs.STEPS).history


def logged(workdir, key):
    lines = [json.loads(line) for line in runs.text(workdir).splitlines()]
    return [line[key] for line in lines if key in line]


@pytest.mark.parametrize("name", ["contrastive", "distilled"])
def test_the_loss_falls_and_ranks_checkpoints_beside_a_probe(name, request):
    workdir = request.getfixturevalue(name)
    losses = [loss for _, loss in runs.read_losses(workdir)]
    # The first step of a distillation has features that are not standardised yet.
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[1:6])
    validated = [entry.loss for entry in history(workdir)]
    assert validated == pytest.approx(logged(workdir, "validation/loss"), rel=1e-6)
    assert all(np.isnan(entry.auc) for entry in history(workdir))
    assert checkpoint_facts.open_checkpoint(workdir).facts.validation.loss == min(validated)
    probed = logged(workdir, "validation/probe_auc")
    assert len(probed) == len(validated)
    assert all(0 <= auc <= 1 for auc in probed)
    assert max(probed) > 0.8, "blobs are easily told, by random features too"


def test_what_a_student_explains_of_its_teacher(distilled):
    """The loss is a share of the teacher's variance: 1 of a student that says the mean."""
    errors = [logged(distilled, f"teacher1_{target}") for target in ("average", "map")]
    losses = [loss for _, loss in runs.read_losses(distilled)]
    np.testing.assert_allclose(losses, np.mean(errors, 0), rtol=1e-5)
    assert np.mean(losses[-10:]) < 0.7
    validated = [entry.loss for entry in history(distilled)]
    assert validated[-1] < 0.8 * validated[0]


@pytest.mark.long
def test_killed_a_contrastive_run_goes_on_as_the_same(contrastive, data_dir, tmp_path):
    for step in (10, 75):
        status, _ = runs.end_at(signal.SIGKILL, step, tmp_path / "w", data_dir, *CONTRASTIVE)
        assert status == -signal.SIGKILL
    runs.finish(tmp_path / "w", data_dir, *CONTRASTIVE, *runs.WORKERS)
    runs.same_run(contrastive, tmp_path / "w")


@pytest.mark.long
def test_killed_a_distillation_goes_on_without_the_teachers_folder(
    distilled, trained, data_dir, tmp_path
):
    teacher = tmp_path / "teacher"
    for step in (10, 75):
        if step == 10:
            shutil.copytree(trained, teacher)
        options = distilling(teacher)
        status, _ = runs.end_at(signal.SIGKILL, step, tmp_path / "w", data_dir, *options)
        assert status == -signal.SIGKILL
        shutil.rmtree(teacher, ignore_errors=True)
    runs.finish(tmp_path / "w", data_dir, *options)
    runs.same_run(distilled, tmp_path / "w")


def backbone(variables):
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    return {name: np.asarray(x) for name, x in flat.items() if name.split("/")[1] == "backbone"}


@pytest.mark.parametrize("name", ["contrastive", "distilled"])
def test_a_screening_begins_with_its_backbone(name, request, data_dir, tmp_path, command):
    workdir = request.getfixturevalue(name)
    log = command(
        "train",
        "--config=configs/default.py:debug",
        "--config.dataset=folder/blobs",
        f"--config.init.weights={workdir}",
        "--config.init.freeze_epochs=1",
        "--config.epochs=1",
        f"--workdir={tmp_path / 'run'}",
        f"--data_dir={data_dir}",
    ).stderr
    assert "init.what is backbone" in log
    learned = open_weights(workdir).arrays
    network = jaxcovid.load(tmp_path / "run")
    for path, array in backbone(network.variables).items():
        np.testing.assert_array_equal(array, learned[path])
    # Also what its teacher was trained on counts as seen.
    assert len(network.trained_on()["train"]) == (2 if name == "contrastive" else 3)


def test_it_answers_nothing_and_says_what_to_do(contrastive, data_dir, tmp_path, command):
    hint = f"train one that begins with its backbone: --config.init.weights={contrastive}"
    with pytest.raises(WorkdirError, match="objective=contrastive and has no classifier"):
        jaxcovid.load(contrastive)
    for words in (
        ("evaluate", f"--data_dir={data_dir}"),
        ("predict", str(contrastive / "run.json")),
        ("export", "--format=stablehlo"),
    ):
        failed = command(words[0], f"--workdir={contrastive}", *words[1:], check=False)
        assert failed.returncode
        assert hint in failed.stderr
    status = command("status", f"--workdir={contrastive}").stdout
    assert "best validation AUC of a linear probe" in status


def test_a_teacher_that_was_changed_is_refused(distilled, data_dir, tmp_path):
    workdir = tmp_path / "w"
    shutil.copytree(distilled, workdir)
    file = workdir / "teachers" / "teacher1.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    config = pretrain.get_config("debug")
    config.update_from_flattened_dict(Run.load(distilled).config)
    with pytest.raises(ValueError, match="does not hold the teacher that this run began with"):
        train.run(config, workdir=workdir, data_dir=data_dir)
    file.unlink()
    with pytest.raises(ValueError, match=r"teacher1\.safetensors, a teacher of this run"):
        train.run(config, workdir=workdir, data_dir=data_dir)


def test_films_with_findings_need_no_class_and_have_no_probe(tmp_path):
    prepare.build("chestxray14", tmp_path / "data", source=str(make_chestxray14(tmp_path / "nih")))
    config = pretrain.get_config("debug")
    config.update_from_flattened_dict({"dataset": "chestxray14", "epochs": 0.3})
    train.run(config, workdir=tmp_path / "w", data_dir=tmp_path / "data")
    assert logged(tmp_path / "w", "validation/loss")
    assert not logged(tmp_path / "w", "validation/probe_auc")


def test_trained_on_holds_what_a_teacher_has_learned_from(distilled):
    assert len(trained_on(distilled, Run.load(distilled))["train"]) == 2
