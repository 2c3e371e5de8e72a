"""One run as a user has it: train, kill, resume bit for bit, evaluate, predict, from Python too."""

import csv
import html
import json
import shlex
import shutil
import signal

import cv2
import numpy as np
import pytest
from runs import STEPS, WORKERS, arguments, end_at, finish, read_losses, same_run

from jaxcovid.data.opening import open_dataset
from jaxcovid.inference import predictor
from jaxcovid.workdir import checkpoint_facts


def test_the_whole_run_learned_and_logged_every_step(trained):
    found = read_losses(trained)
    assert [step for step, _ in found] == list(range(1, STEPS + 1))
    values = [loss for _, loss in found]
    assert np.mean(values[-20:]) < 0.5 * np.mean(values[:20])


def test_killed_at_two_random_steps_and_resumed_it_is_the_same_run(
    trained, tmp_path, data_dir, command
):
    steps = sorted(np.random.default_rng().choice(np.arange(5, 100), 2, replace=False))
    for step in steps:
        status, _ = end_at(signal.SIGKILL, step, tmp_path / "killed", data_dir, *WORKERS)
        assert status == -signal.SIGKILL, f"ended by itself with {status}, kill steps {steps}"
    command("train", *arguments(tmp_path / "killed", data_dir))
    same_run(trained, tmp_path / "killed")


@pytest.mark.long
def test_a_termination_signal_saves_its_step_and_the_same_command_resumes(
    trained, tmp_path, data_dir, command
):
    status, log = end_at(signal.SIGTERM, 30, tmp_path / "ended", data_dir)
    assert status == 128 + signal.SIGTERM
    saved = checkpoint_facts.steps(tmp_path / "ended")[-1]
    assert saved >= 30
    assert f"step {saved} is saved. The same command resumes." in log
    # Another number of workers is no other run.
    more = ("--config.workers=1",)
    command("train", *arguments(tmp_path / "ended", data_dir, *more))
    same_run(trained, tmp_path / "ended")


def test_a_conflicting_resume_is_refused_with_the_difference(trained, data_dir, command):
    process = command("train", *arguments(trained, data_dir, "--config.batch_size=4"), check=False)
    assert process.returncode == 1
    assert "config.batch_size: 8 in the workdir, 4 now" in process.stderr
    assert "Traceback" not in process.stderr


def test_evaluation_prediction_and_python_agree(trained, data_dir, command, tmp_path):
    command("evaluate", f"--workdir={trained}", "--split=test", f"--data_dir={data_dir}")
    folder = trained / "evaluation" / "test"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["split"], metrics["n"]) == ("test", 11)
    assert metrics["auc"]["value"] > 0.9
    assert metrics["auc"]["low"] <= metrics["auc"]["value"] <= metrics["auc"]["high"]
    for name in ("report.html", "roc.png", "heatmaps.png"):
        assert (folder / name).stat().st_size > 1000
    with (folder / "predictions.csv").open() as file:
        evaluated = {row["id"]: float(row["probability"]) for row in csv.DictReader(file)}

    source = open_dataset("folder/blobs", data_dir).source("test")
    images = tmp_path / "images"
    images.mkdir()
    for i in range(len(source)):
        (images / source[i]["id"].replace("/", "_")).write_bytes(source[i]["image"])
    (images / "bad.png").write_text("no image")
    cv2.imwrite(str(images / "blank.png"), np.full((80, 80), 128, np.uint8))
    process = command(
        "predict",
        f"--workdir={trained}",
        "--heatmaps",
        f"--output={tmp_path / 'out'}",
        images,
        check=False,
        cwd=tmp_path,
    )
    assert process.returncode == 1, "a bad image must show in the exit status"
    rows = list(csv.DictReader(process.stdout.splitlines()))
    assert process.stdout == (tmp_path / "out" / "predictions.csv").read_text()
    (bad,) = [row for row in rows if row["error"]]
    assert bad["id"].endswith("bad.png")
    assert not bad["probability"]
    good = {row["id"].rsplit("/")[-1]: row for row in rows if not row["error"]}
    assert good.pop("blank.png")["warning"] == "a blank image"
    assert len(good) == len(evaluated) == 11
    threshold = metrics["operating_points"]["youden"]["threshold"]
    for name, probability in evaluated.items():
        row = good[name.replace("/", "_")]
        assert abs(float(row["probability"]) - probability) <= 1e-5
        assert (row["decision"] == "COVID-19") == (probability >= threshold)
    assert len(list((tmp_path / "out" / "heatmaps").iterdir())) == 12
    for strict, status in (((), 0), (("--strict",), 1)):
        process = command(
            "predict", f"--workdir={trained}", *strict, images / "blank.png", check=False
        )
        assert process.returncode == status

    network = predictor.load(trained)
    path = images / next(iter(good))
    array = cv2.imread(str(path))[..., ::-1]
    found = network.probabilities([path, array, path.read_bytes()])
    assert found.shape == (3, 1)
    assert np.abs(found - float(good[path.name]["probability"])).max() <= 1e-5


@pytest.mark.long
def test_ablations_comparison_and_an_ensemble(trained, data_dir, command, tmp_path):
    other = tmp_path / "other"
    more = ("--config.seed=1", "--config.epochs=8")
    command("train", *arguments(other, data_dir, *more))
    command(
        "evaluate",
        f"--workdir={trained},{other}",
        f"--data_dir={data_dir}",
        f"--against={other}",
        "--ablations",
    )
    metrics = json.loads((trained / "evaluation" / "test" / "metrics.json").read_text())
    names = [row["ablation"] for row in metrics["ablations"]]
    assert names == ["border_only", "centre_only", "thumbnail", "flipped", "brighter", "darker"]
    assert metrics["ablations"][0]["unaltered"]["value"] == metrics["auc"]["value"]
    difference = metrics["against"]["difference"]["value"]
    assert difference == pytest.approx(metrics["auc"]["value"] - metrics["against"]["auc"])
    assert metrics["calibration"]["temperature"] > 0
    folder = trained / "evaluation" / "test-ensemble"
    joined = json.loads((folder / "metrics.json").read_text())
    assert joined["runs"]["aucs"] == [metrics["auc"]["value"], metrics["against"]["auc"]]
    assert "Research use only" in (folder / "model_card.md").read_text()


@pytest.mark.long
def test_the_report_has_the_commands_as_they_were_typed(trained, data_dir, command, tmp_path):
    old = tmp_path / "it's old"
    shutil.copytree(trained, old, ignore=shutil.ignore_patterns("evaluation"))
    facts = json.loads((old / "run.json").read_text())
    typed = shlex.join(["python", "-m", "jaxcovid.train", *arguments(trained, data_dir)])
    assert facts.pop("command") == typed
    (old / "run.json").write_text(json.dumps(facts))
    words = (f"--workdir={trained},{old}", f"--data_dir={data_dir}", "--split", "test")
    command("evaluate", *words)
    evaluation = shlex.join(["python", "-m", "jaxcovid.evaluate", *words])
    unknown = f"python -m jaxcovid.train --config=FILE --workdir={old}  # with the options below"
    for folder, trainings in (
        (trained / "evaluation" / "test", [typed]),
        (old / "evaluation" / "test", [unknown]),
        (trained / "evaluation" / "test-ensemble", [typed, unknown]),
    ):
        page, card = (
            html.unescape((folder / name).read_text()) for name in ("report.html", "model_card.md")
        )
        for line in (*trainings, evaluation):
            assert f"<pre><code>{line}</code></pre>" in page
            assert f"\n{line}\n" in card
        assert page.count("jaxcovid.train ") == len(trainings)


@pytest.mark.long
def test_shuffled_labels_and_altered_images_can_be_trained_on(tmp_path, data_dir, command):
    for ablation in ("shuffled_labels", "border_only"):
        workdir = tmp_path / ablation
        more = (f"--config.ablation={ablation}", "--config.epochs=3", "--config.workers=0")
        command("train", *arguments(workdir, data_dir, *more))
        seen = ("evaluate", f"--workdir={workdir}", f"--data_dir={data_dir}", "--split=train")
        refused = command(*seen, check=False)
        assert refused.returncode == 1
        assert "24 of 24 images of the train split of folder/blobs were in" in refused.stderr
        command(*seen, "--allow_seen")
        report = (workdir / "evaluation/train/report.html").read_text()
        assert "the network has learned from 24 of these 24 images" in report
        with (workdir / "evaluation" / "train" / "predictions.csv").open() as file:
            labels = {row["id"]: int(row["label"]) for row in csv.DictReader(file)}
        source = open_dataset("folder/blobs", data_dir).source("train")
        names = open_dataset("folder/blobs", data_dir).class_names
        true = {
            r["id"]: int(names[r["label"]] == "COVID-19")
            for r in map(source.__getitem__, range(24))
        }
        assert sum(labels.values()) == sum(true.values())
        assert (labels == true) == (ablation == "border_only")
    process = command(
        "train", *arguments(tmp_path / "no", data_dir, "--config.ablation=lungs"), check=False
    )
    assert "ablation is 'lungs'; use one of none" in process.stderr


@pytest.mark.long
def test_early_stop_a_profile_and_a_workdir_as_url(tmp_path, data_dir, command):
    words = arguments(
        f"file://{tmp_path}/early",
        data_dir,
        "--config.optimizer.learning_rate=1e-9",
        "--config.early_stop_validations=2",
        "--config.workers=0",
        "--config.profile=(3, 4)",
    )
    process = command("train", *words)
    assert "Stopping early" in process.stderr
    assert checkpoint_facts.steps(tmp_path / "early")[-1] < STEPS
    assert list((tmp_path / "early/tensorboard/plugins/profile").glob("*/*.xplane.pb"))
    assert "Training was finished before" in command("train", *words).stderr
    # A run that goes on in the middle of the window has nothing to stop there.
    end_at(signal.SIGTERM, 20, tmp_path / "late", data_dir)
    step = checkpoint_facts.steps(tmp_path / "late")[-1]
    finish(tmp_path / "late", data_dir, f"--config.profile=({step}, {step + 2})")
    state = command("status", f"--workdir=file://{tmp_path}/early")
    assert "finished" in state.stdout


@pytest.mark.long
def test_preprocessed_on_the_device_it_resumes_with_another_cache(tmp_path, data_dir, command):
    device = ("--config.preprocess_on=device", "--config.preprocessing.keep_ratio=True")
    command("train", *arguments(tmp_path / "whole", data_dir, *device))
    disk = ("--config.cache=disk", *WORKERS)
    status, _ = end_at(signal.SIGKILL, 20, tmp_path / "killed", data_dir, *device, *disk)
    assert status == -signal.SIGKILL
    command("train", *arguments(tmp_path / "killed", data_dir, *device, "--config.cache=memory"))
    same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.long
def test_one_vs_rest_is_refused_and_accumulation_and_balanced_weights(tmp_path, data_dir, command):
    process = command(
        "train",
        *arguments(tmp_path / "run", data_dir, "--config.task=one_vs_rest"),
        check=False,
    )
    assert process.returncode == 1
    assert "needs 3 classes" in process.stderr
    command(
        "train",
        *arguments(
            tmp_path / "run",
            data_dir,
            "--config.epochs=4",
            "--config.class_weights=balanced",
            "--config.optimizer.accumulate_steps=2",
            "--config.model.dtype=bfloat16",
            "--config.model.head=gap",
            "--config.optimizer.weight_decay=0.01",
            "--config.preprocess_on=device",
            "--config.cache=memory",
        ),
    )
    assert np.isfinite(predictor.load(tmp_path / "run").probabilities([np.eye(80, dtype=np.uint8)]))
