"""Lungs and lesion: the decoder, its loss, its validation, and whole runs on the phantom."""

import csv
import functools
import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from PIL import Image

from jaxcovid.data.phantom.slice import draw_slice
from jaxcovid.data.structures import UNKNOWN
from jaxcovid.inference.forward import jit_forward
from jaxcovid.models.backbones import BACKBONES, FOR_SCREENING_ALONE
from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.models.segmentation_net import SegmentationNet, involvement_logit
from jaxcovid.runtime import sharding
from jaxcovid.training.compilation import jit_train_step
from jaxcovid.training.losses import segmentation_losses
from jaxcovid.training.optimizer import make_optimizer, make_schedule
from jaxcovid.training.state import jit_init_state
from jaxcovid.training.validation import mean_dice, segmentation_scores
from jaxcovid.workdir.checkpoint_facts import Validation

NARROW = {"growth_rate": 4, "depths": (1, 2, 2, 1)}
SIZE = 64


def made_batch(seed, rows=8):
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 2, (rows, SIZE, SIZE, 2)).astype(np.uint8)
    masks[1] = UNKNOWN  # a row without any mask
    masks[2, ..., 1] = UNKNOWN
    return {
        "image": rng.normal(size=(rows, SIZE, SIZE, 1)).astype(np.float32),
        "target": rng.integers(0, 2, (rows, 1)).astype(np.float32),
        "masks": masks,
    }


def randomly_initialised(model, image, seed=0):
    variables = jax.jit(model.init)(jax.random.key(seed), image)
    rng = np.random.default_rng(seed)
    stats = jax.tree.map(lambda x: x + np.float32(rng.uniform(0, 1)), variables["batch_stats"])
    return {**variables, "batch_stats": stats}


@pytest.mark.parametrize("name", sorted({*BACKBONES} - {*FOR_SCREENING_ALONE}))
def test_each_backbone_has_a_decoder_for_any_size(name):
    model = SegmentationNet(backbone_name=name, head="gap", joint=True)
    image = jnp.zeros((2, 96, 72, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert {"backbone", "pyramid_attention", "decoder", "norm", "classifier"} == {
        *variables["params"]
    }
    apply = functools.partial(model.apply, method="all_logits")
    logits = jax.eval_shape(apply, variables, image)
    assert {name: x.shape for name, x in logits.items()} == {
        "masks": (2, 96, 72, 2),
        "classes": (2, 1),
    }


def test_a_joint_network_screens_as_one_without_a_decoder():
    image = made_batch(0)["image"]
    joint = SegmentationNet(joint=True, **NARROW)
    variables = randomly_initialised(joint, image[:1])
    plain = {name: dict(tree) for name, tree in variables.items()}
    for tree in plain.values():
        tree.pop("decoder")
    expected = jax.jit(DeepCTNet(**NARROW).apply)(plain, image)
    np.testing.assert_allclose(jax.jit(joint.apply)(variables, image), expected, rtol=1e-6)
    assert joint.has_gradcam
    assert not SegmentationNet(**NARROW).has_gradcam


def test_without_a_classifier_the_score_is_the_share_of_the_lungs():
    lungs, lesion = np.full((2, 4, 4), -40.0), np.full((2, 4, 4), -40.0)
    lungs[:, :, :2] = 40  # 8 of 16 pixels
    lesion[0, :2, :2] = 40  # 4, all in the lungs
    lesion[1, 0, :] = 40  # 4, of which 2 lie outside and count as lung
    logits = involvement_logit(jnp.stack([lungs, lesion], -1))
    np.testing.assert_allclose(jax.nn.sigmoid(logits)[:, 0], [4 / 8, 4 / 10], rtol=1e-5)
    nothing = involvement_logit(jnp.full((1, 4, 4, 2), -40.0))
    assert -20 < nothing.item() < -10
    with pytest.raises(ValueError, match="objective=segmentation has one output"):
        SegmentationNet(outputs=3)


def test_the_loss_is_cross_entropy_and_dice_over_known_pixels():
    batch = made_batch(3, rows=4)
    logits = np.random.default_rng(4).normal(size=batch["masks"].shape)
    losses = []
    for channel in range(2):
        known = batch["masks"][..., channel] != UNKNOWN
        truth = batch["masks"][..., channel][known].astype(float)
        p = 1 / (1 + np.exp(-logits[..., channel][known]))
        entropy = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean()
        losses.append(entropy + 1 - (2 * (p * truth).sum() + 1) / ((p + truth).sum() + 1))
    loss, dice = segmentation_losses(jnp.asarray(logits), batch["masks"])
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    assert 0.4 < dice.min() <= dice.max() < 0.6
    batch["masks"][..., 1] = UNKNOWN  # of all rows
    loss, dice = segmentation_losses(jnp.asarray(logits), batch["masks"])
    np.testing.assert_allclose(loss, losses[0], rtol=1e-5)
    assert np.isnan(dice).tolist() == [False, True]
    loss, _ = segmentation_losses(jnp.asarray(logits), np.full_like(batch["masks"], UNKNOWN))
    assert loss == 0


@pytest.mark.parametrize("joint", [False, True])
def test_two_devices_take_the_step_of_one(joint):
    optimizer = make_optimizer(
        make_schedule(learning_rate=1e-3, schedule="constant", updates=1),
        weight_decay=0.0,
        head_lr_multiplier=1.0,
        accumulate_steps=1,
    )
    model = SegmentationNet(joint=joint, **NARROW)
    results = []
    for devices in (1, 2):
        mesh = sharding.make_mesh(devices)
        state = jit_init_state(mesh, model=model, optimizer=optimizer, image_size=SIZE, seed=0)()
        before = ravel_pytree(state.params["backbone"])[0].copy()
        step = jit_train_step(
            mesh,
            model=model,
            optimizer=optimizer,
            weights=np.ones((2, 1), np.float32),
            segmentation_weight=0.5,
            batch_norm="global",
        )
        state, metrics = step(state, sharding.place_batch(made_batch(1), mesh))
        assert np.abs(ravel_pytree(state.params["backbone"])[0] - before).max() > 5e-4
        results.append({name: float(value) for name, value in metrics.items()})
    assert results[0] == pytest.approx(results[1], rel=1e-3)
    assert ("segmentation_loss" in results[0]) == joint


def test_overlaps_are_counted_of_known_pixels():
    mesh = sharding.make_mesh(2)
    model = SegmentationNet(joint=True, **NARROW)
    batch = made_batch(2, rows=4)
    variables = randomly_initialised(model, batch["image"][:1])
    placed = sharding.place_batch({k: batch[k] for k in ("image", "masks")}, mesh)
    forward = jit_forward(mesh, model=model, masks=True)
    probabilities, overlaps = forward(variables, placed["image"], placed["masks"])
    expected = jit_forward(mesh, model=model)(variables, placed["image"])
    np.testing.assert_allclose(probabilities, expected, rtol=1e-6)
    called = np.asarray(model.apply(variables, batch["image"], method="segment")) > 0
    masks = batch["masks"]
    for got, wanted in zip(
        np.moveaxis(np.asarray(overlaps), -1, 0),
        (called & (masks == 1), called & (masks != UNKNOWN), masks == 1),
        strict=True,
    ):
        np.testing.assert_allclose(got, wanted.sum((1, 2)), atol=2)  # of a logit of about 0
    assert not np.asarray(overlaps)[1].any()


def test_dice_is_pooled_over_the_images_of_a_patient():
    overlaps = np.zeros((4, 2, 3), int)
    overlaps[0, 1] = 5, 10, 5
    overlaps[1, 1] = 5, 5, 15
    overlaps[2, 1] = 0, 4, 0
    overlaps[:, 0] = 8, 8, 8
    overlaps[3, 0] = 0, 0, 0
    dice = mean_dice(overlaps, ["a", "a", "b", "c"])
    assert dice == {"lungs": 1.0, "lesion": pytest.approx(np.mean([20 / 35, 0]))}
    with pytest.raises(ValueError, match="no mask is known"):
        mean_dice(np.zeros((2, 2, 3), int), ["a", "b"])


def test_checkpoints_are_ranked_by_what_is_trained():
    nan = float("nan")
    assert Validation(1, 0.8, 0.0).score == 0.8
    assert Validation(1, nan, 0.0, dice={"lungs": 0.9, "lesion": 0.5}).score == 0.5
    assert Validation(1, nan, 0.0, dice={"lungs": 0.9}).score == 0.9
    assert Validation(1, 0.7, 0.0, dice={"lesion": 0.5}).score == pytest.approx(0.6)


def test_thresholds_of_a_network_without_classifier():
    share, dice = np.array([0.0, 0.02, 0.3, 0.4]), {"lungs": 0.9, "lesion": 0.7}
    chosen = segmentation_scores(7, share, np.array([0, 0, 1, 1]), dice)
    assert chosen.thresholds["youden"] == pytest.approx(0.16)
    assert chosen.loss == pytest.approx(0.2)
    one_class = segmentation_scores(7, share, np.ones(4), dice)
    assert one_class.thresholds == {"involved": 0.01}


CONFIG = (
    "--config.dataset=phantom",
    "--config.epochs=0.1",
    "--config.preprocessing.size=64",
)


@pytest.mark.long
@pytest.mark.parametrize("variant", ["debug", "joint,debug"])
def test_a_run_is_trained_evaluated_and_segments(variant, phantom, tmp_path, command):
    workdir, data = tmp_path / "run", f"--data_dir={phantom}"
    train = (
        "train",
        f"--config=configs/lesion.py:{variant}",
        *CONFIG,
        f"--workdir={workdir}",
        data,
    )
    assert command(*train).returncode == 0
    assert command(*train).returncode == 0, "which finds it finished"
    done = command("evaluate", f"--workdir={workdir}", "--split=test", data)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((workdir / "evaluation" / "test" / "metrics.json").read_text())
    scores = metrics["segmentation"]["scores"]
    assert set(scores) == {"lungs", "lesion"}
    assert 0 <= scores["lungs"]["dice"]["value"] <= 1
    joint = "joint" in variant
    assert ("calibration" in metrics) == joint
    assert 0 < metrics["segmentation" if joint else "screening"]["auc"]["value"] < 1
    report = (workdir / "evaluation" / "test" / "report.html").read_text()
    assert "Segmentation of lungs and lesion" in report
    check_export(workdir, phantom, tmp_path, command)


def check_export(workdir, phantom, tmp_path, command):
    """The exported network writes the masks of the workdir, and is not reduced to 8 bits."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    sick, _ = draw_slice(patient=900, index=2, label="COVID-19")
    cv2.imwrite(str(tmp_path / "sick.png"), sick[:, 10:])
    export = ("export", f"--workdir={workdir}", "--format=onnx")
    command(*export, f"--output={tmp_path / 'exported'}")
    tables = []
    for network in (f"--workdir={workdir}", f"--model={tmp_path / 'exported'}"):
        output = tmp_path / network[2:7]
        command("predict", network, "--segment", f"--output={output}", tmp_path / "sick.png")
        (row,) = csv.DictReader((output / "predictions.csv").open())
        labels = np.array(Image.open(output / row["masks"]))
        assert labels.shape == sick[:, 10:].shape
        tables.append((float(row["probability"]), labels))
    (ours, our_labels), (theirs, their_labels) = tables
    assert theirs == pytest.approx(ours, abs=2e-3)
    assert (our_labels == their_labels).mean() > 0.99
    small = command(*export, "--int8", f"--data_dir={phantom}", check=False)
    assert "what 8 bits do to masks" in small.stderr
