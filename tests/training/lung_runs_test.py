"""Networks that are shown the lungs which another one marks: whole runs on the phantom."""

import json
import pathlib
import shutil
import signal

import cv2
import numpy as np
import pytest
import runs
import two_processes

from jaxcovid import evaluate, predict
from jaxcovid.data.decoding import decode_gray
from jaxcovid.data.lung_focus import LungFocus
from jaxcovid.data.masks import decode_masks
from jaxcovid.data.opening import open_dataset
from jaxcovid.evaluation.selection import Selection
from jaxcovid.inference import frozen_parts, lung_finder, predictor
from jaxcovid.inference.network import NO_LUNGS
from jaxcovid.runtime.sharding import make_mesh
from jaxcovid.training import lung_marks
from jaxcovid.training.splits import Split
from jaxcovid.weights.export.export import export
from jaxcovid.workdir.run import Run

pytestmark = pytest.mark.long

STEPS = 26
OPTIONS = (
    "--config.dataset=phantom",
    "--config.epochs=0.2",
    "--config.validations_per_epoch=10",
    "--config.model.head=gap",
)


@pytest.fixture(scope="module")
def marking(tmp_path_factory, phantom):
    """The workdir of a network that knows lungs, and what to give a run that is shown them."""
    workdir = tmp_path_factory.mktemp("marking") / "run"
    options = (
        "--config.objective=segmentation",
        "--config.optimizer.schedule=one_cycle",
        "--config.optimizer.learning_rate=3e-3",
        "--config.optimizer.head_lr_multiplier=10",
        "--config.model.head=flatten",
    )
    more = ("--config.epochs=0.5", "--config.validations_per_epoch=2")
    runs.finish(workdir, phantom, *OPTIONS, *options, *more)
    return workdir


def shown(marking, use="crop_and_mask"):
    return (*OPTIONS, f"--config.lungs.workdir={marking}", f"--config.lungs.use={use}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, phantom, marking):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    log = runs.finish(workdir, phantom, *shown(marking))
    assert "No lungs were found in 0 of the 1060 images of the train split" in log
    return workdir


@pytest.fixture
def alone(whole, tmp_path):
    """A copy of the workdir, which knows no other."""
    workdir = tmp_path / "alone"
    shutil.copytree(whole, workdir)
    run = json.loads((workdir / "run.json").read_text())
    run["config"]["lungs"]["workdir"] = "gone"
    (workdir / "run.json").write_text(json.dumps(run))
    return workdir


def test_a_killed_run_resumes_bit_for_bit_without_the_workdir_of_the_part(
    whole, phantom, marking, tmp_path
):
    moving = tmp_path / "marking"
    shutil.copytree(marking, moving)
    runs.end_at(signal.SIGKILL, 22, tmp_path / "run", phantom, *shown(moving))
    shutil.rmtree(moving)
    log = runs.finish(tmp_path / "run", phantom, *shown(moving))
    assert "Resuming" in log
    assert "Marking the lungs" not in log
    one, two = (checked_run(workdir) for workdir in (whole, tmp_path / "run"))
    assert one == two


def checked_run(workdir):
    facts = runs.checkpoint_facts.read_facts(workdir, STEPS)
    return facts.checksums, facts.history, runs.read_losses(workdir)


def test_the_run_says_which_weights_mark_the_lungs(whole, marking):
    summary = Run.load(whole).parts[frozen_parts.LUNGS]
    part = frozen_parts.Part(Run.load(marking), runs.checkpoint_facts.open_checkpoint(marking))
    assert summary == part.summary


def test_one_image_has_the_probability_of_the_evaluation(alone, phantom, tmp_path):
    (result,) = evaluate.run([alone], Selection("test", data_dir=phantom), ablations=True)
    assert result.without_lungs == 0
    assert "shown the lungs" in (alone / "evaluation/test/report.html").read_text()
    network = predictor.load(alone)
    source = open_dataset("phantom", phantom).source("test")
    for index in (0, 70):
        gray = decode_gray(source[index]["image"])
        expected = result.predictions.probability[index]
        np.testing.assert_allclose(network.probabilities([gray])[0, 0], expected, atol=1e-5)
        cv2.imwrite(str(tmp_path / "slice.png"), gray)
        (row,) = predict.run(alone, [tmp_path / "slice.png"])
        assert float(row["probability"]) == pytest.approx(expected, abs=1e-5)
        assert NO_LUNGS not in row["warning"]
    assert {row.ablation for row in result.ablations} > {"border_only", "lungs_only", "flipped"}


def test_the_network_sees_nothing_outside_of_the_lungs(alone, phantom):
    network, source = predictor.load(alone), open_dataset("phantom", phantom).source("test")
    record = source[3]
    gray = decode_gray(record["image"])
    (view,) = network.prepare([gray])[1]
    lungs = decode_masks(record, gray.shape)[..., 0] == 1
    assert view.inside[lungs].mean() > 0.99
    rows, columns = view.box
    assert (rows.stop - rows.start) * (columns.stop - columns.start) < 0.8 * gray.size
    (heatmap,) = network.heatmaps([gray])
    outside = np.ones(gray.shape, bool)
    outside[view.box] = False
    assert heatmap.max() > 0
    large = cv2.resize(heatmap, gray.shape[::-1])
    assert large[cv2.erode(outside.astype(np.uint8), np.ones((21, 21))) > 0].max() == 0


def test_an_image_without_lungs_is_screened_whole_and_says_so(
    alone, phantom, tmp_path, monkeypatch
):
    monkeypatch.setattr(LungFocus, "clean", lambda self, bits: np.zeros_like(bits))
    network, source = predictor.load(alone), open_dataset("phantom", phantom).source("test")
    gray = decode_gray(source[3]["image"])
    inputs, (view,) = network.prepare([gray])
    assert not view.has_lungs
    np.testing.assert_array_equal(inputs[0], network.preprocessing(gray))
    cv2.imwrite(str(tmp_path / "slice.png"), gray)
    (row,) = predict.run(alone, [tmp_path / "slice.png"])
    assert NO_LUNGS in row["warning"]
    selection = Selection("validation", data_dir=phantom)
    (result,) = evaluate.run([alone], selection)
    assert result.without_lungs == result.per_image.n
    metrics = json.loads((alone / "evaluation/validation/metrics.json").read_text())
    assert metrics["without lungs"] == result.per_image.n


def test_an_export_is_refused(alone):
    with pytest.raises(ValueError, match=r"lungs\.use=crop_and_mask, by a second network"):
        export(alone, "stablehlo")


def test_a_joint_run_on_the_device_with_decoded_images_segments_the_whole_image(
    marking, phantom, tmp_path
):
    options = (
        "--config.objective=joint",
        "--config.preprocess_on=device",
        "--config.cache=memory",
        "--config.epochs=0.1",
    )
    runs.finish(tmp_path / "run", phantom, *shown(marking, "crop"), *options)
    network = predictor.load(tmp_path / "run")
    gray = decode_gray(open_dataset("phantom", phantom).source("test")[0]["image"])
    (view,) = network.prepare([gray])[1]
    (masks,) = network.segment([gray])
    assert masks.shape == (*gray.shape, 2)
    outside = np.ones(gray.shape, bool)
    outside[view.box] = False
    assert masks[outside].max() == 0 < masks[view.box].min()


def test_what_cannot_mark_lungs_is_refused(whole, marking, trained):
    def find(workdir, modality="CT", use="crop"):
        config = {"lungs": {"workdir": str(workdir), "use": use}, "preprocessing": {"fill": 0}}
        return lung_finder.find_lungs(pathlib.Path("new"), config, modality=modality)

    assert find("") is None
    assert find(marking).run.config["objective"] == "segmentation"
    for workdir, message in (
        (trained, "has no decoder"),
        ("nowhere", "nowhere is not a workdir"),
    ):
        with pytest.raises(ValueError, match=message):
            find(workdir)
    with pytest.raises(ValueError, match="was trained on CT images, these are X-ray"):
        find(marking, modality="X-ray")
    with pytest.raises(ValueError, match=r"lungs\.use is 'zoom'"):
        find(marking, use="zoom")


def test_a_network_that_is_shown_lungs_marks_none(marking, phantom, tmp_path):
    options = ("--config.objective=joint", "--config.epochs=0.01")
    runs.finish(tmp_path / "run", phantom, *shown(marking), *options)
    config = {"lungs": {"workdir": str(tmp_path / "run"), "use": "crop"}}
    with pytest.raises(ValueError, match="is shown the lungs that another network marks"):
        lung_finder.find_lungs(tmp_path / "new", config, modality="CT")


def marked(whole, phantom, workdir, devices=None):
    """The marks of a few records for a run, and the splits that they are of."""
    run = Run.load(whole)
    source = open_dataset("phantom", phantom).source("test")
    records = [source[i] for i in range(5)] + [{"id": "bad", "image": b"no image"}]
    splits = lung_marks.focus_splits(
        {"test": Split(records, None, None)},
        workdir,
        run=run,
        part=lung_finder.carried_lungs(whole, run),
        mesh=make_mesh(devices),
        workers=0,
    )
    return splits["test"].source.bits, splits, run


def test_marks_are_kept_and_used_again(whole, phantom, tmp_path, caplog):
    bits, splits, run = marked(whole, phantom, tmp_path, 1)
    assert bits.shape == (6, 64 * 64 / 8), "one cannot be read"
    assert bits[:5].any(axis=1).all()
    lung_marks.save(splits, tmp_path, run=run)
    (file,) = (tmp_path / lung_marks.FOLDER).iterdir()
    np.save(file, np.zeros_like(bits))
    assert not marked(whole, phantom, tmp_path, 1)[0].any()
    for damage in (b"damaged", b"", file.read_bytes()[:200]):
        file.write_bytes(damage)
        np.testing.assert_array_equal(marked(whole, phantom, tmp_path, 1)[0], bits)
    np.save(file, bits[1:])
    np.testing.assert_array_equal(marked(whole, phantom, tmp_path, 1)[0], bits)
    assert "marked anew" in caplog.text


def mark_in_two(whole, phantom, folder):
    """Called in two processes; only the first one's workdir holds marks, the second time."""
    import jax

    process = jax.process_index()
    own = pathlib.Path(folder, str(process))
    own.mkdir()
    bits, splits, run = marked(pathlib.Path(whole), phantom, own)
    if process == 0:
        lung_marks.save(splits, own, run=run)
    again, _, _ = marked(pathlib.Path(whole), phantom, own)
    np.savez(own / "bits.npz", bits=bits, again=again)


def test_all_processes_get_the_same_marks(whole, phantom, tmp_path):
    for status, log in two_processes.call(__name__, "mark_in_two", whole, phantom, tmp_path):
        assert status == 0, log
    expected = marked(whole, phantom, tmp_path / "none", 1)[0]
    for process in range(2):
        with np.load(tmp_path / str(process) / "bits.npz") as made:
            assert (made["bits"] != expected).sum() <= 2, "more than rounding"
            np.testing.assert_array_equal(made["again"], made["bits"])
    one, two = (np.load(tmp_path / str(i) / "bits.npz")["bits"] for i in range(2))
    np.testing.assert_array_equal(one, two)
