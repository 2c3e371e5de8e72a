"""Deep-CXR-Net: its arithmetic, its frozen parts, and the three stages as a user runs them."""

import csv
import json
import os
import pathlib
import shutil
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from dicom_files import dicom_bytes
from xray_trees import make_chest_xray, make_chestxray14, make_covid_chestxray

from jaxcovid import prepare, train
from jaxcovid.inference import frozen_parts, predictor
from jaxcovid.inference.forward import forward
from jaxcovid.inference.grad_cam import grad_cam
from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.models.deep_cxr_net import DeepCXRNet, FrozenPart
from jaxcovid.runtime import sharding
from jaxcovid.training.compilation import jit_train_step
from jaxcovid.training.optimizer import make_optimizer
from jaxcovid.training.state import jit_init_state
from jaxcovid.workdir import checkpoint_facts

REPOSITORY = pathlib.Path(__file__).parents[2]
SIZE = 64
NARROW = {"growth_rate": 8, "depths": (2, 2, 2, 2)}
PARTS = (
    FrozenPart("part1", DeepCTNet(outputs=6, **NARROW)),
    FrozenPart("part2", DeepCTNet(outputs=2, exclusive=True, **NARROW)),
)
MODEL = DeepCXRNet(parts=PARTS, **NARROW)


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def random_variables(model, seed):
    """Variables of a network, its running moments other than those of a new one."""
    image = jnp.zeros((1, SIZE, SIZE, 1))
    variables = jax.jit(model.init)(jax.random.key(seed), image)
    rng = np.random.default_rng(seed)
    ranges = {"mean": (-0.5, 0.5), "var": (0.5, 1.5)}
    stats = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.asarray(rng.uniform(*ranges[path[-1].key], x.shape), jnp.float32),
        variables["batch_stats"],
    )
    return {"params": variables["params"], "batch_stats": stats}


@pytest.fixture(scope="module")
def frozen():
    return {part.name: random_variables(part.model, i) for i, part in enumerate(PARTS, 1)}


def apply(variables, *arguments, method=None):
    return jax.jit(partial(MODEL.apply, method=method))(variables, *arguments)


def images(rows, seed=0):
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.2, 2, (rows, 1, 1, 1))
    return (scale * rng.normal(size=(rows, SIZE, SIZE, 1))).astype(np.float32)


def test_parameters_that_are_trained():
    shapes = jax.eval_shape(
        DeepCXRNet(
            parts=(
                FrozenPart("part1", DeepCTNet(outputs=6)),
                FrozenPart("part2", DeepCTNet(outputs=2, exclusive=True)),
            )
        ).init,
        jax.random.key(0),
        jnp.zeros((1, 256, 256, 1)),
    )
    part3 = 6_953_856 + 2_153_607 + 2 * 1024
    assert count(shapes["params"]) == part3 + (65_536 + 1) * 128 + (136 + 1) * 64 + 65
    assert count(shapes["params"]) == 17_507_080
    assert set(shapes) == {"params", "batch_stats"}


@pytest.mark.parametrize(
    ("options", "joined"),
    [
        ({}, 128 + 8),
        ({"parts": PARTS[:1]}, 128 + 6),
        ({"parts": PARTS[1:]}, 128 + 2),
        ({"parts": ()}, 128),
        ({"reduced": 32, "width": 16}, 32 + 8),
        ({"reduced": 0, "parts": ()}, 4 * 32),
        ({"reduced": 0, "head": "gap"}, 32 + 8),
    ],
)
def test_what_the_fusion_reads(options, joined):
    model = DeepCXRNet(**{"parts": PARTS, **NARROW, **options})
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 1)))["params"]
    assert shapes["fusion"]["kernel"].shape == (joined, options.get("width", 64))
    assert shapes["classifier"]["kernel"].shape == (options.get("width", 64), 1)
    assert ("reduction" in shapes) == (options.get("reduced") != 0)


def test_likelihoods_are_those_of_the_parts_alone(frozen):
    image = jnp.asarray(images(3))
    variables = {**random_variables(MODEL, 0), "frozen": frozen}
    found = apply(variables, image, method="likelihoods")
    alone = [
        jax.jit(partial(forward, model=part.model))(frozen[part.name], image) for part in PARTS
    ]
    np.testing.assert_allclose(found, np.concatenate(alone, -1), atol=1e-6)
    np.testing.assert_allclose(found[:, 6:].sum(1), 1, atol=1e-6)  # a softmax
    assert np.ptp(np.asarray(found), 0).min() > 0


def test_the_head_equals_numpy(frozen):
    image = jnp.asarray(images(2))
    variables = {**random_variables(MODEL, 0), "frozen": frozen}
    attended = apply(variables, apply(variables, image, method="features"), method="attend")
    params = jax.device_get(variables["params"])
    x = np.asarray(apply(variables, attended, method="vector"), np.float64)
    x = np.maximum(x @ params["reduction"]["kernel"] + params["reduction"]["bias"], 0)
    x = np.concatenate([x, apply(variables, image, method="likelihoods")], -1)
    x = np.maximum(x @ params["fusion"]["kernel"] + params["fusion"]["bias"], 0)
    x = x @ params["classifier"]["kernel"] + params["classifier"]["bias"]
    np.testing.assert_allclose(apply(variables, image), x, atol=1e-4)


@pytest.mark.parametrize("devices", [1, 8])
def test_training_changes_no_bit_of_the_frozen_parts(devices, frozen):
    mesh = sharding.make_mesh(devices)
    optimizer = make_optimizer(
        optax.constant_schedule(1e-3), weight_decay=0.0, head_lr_multiplier=1.0, accumulate_steps=1
    )
    state = jit_init_state(mesh, model=MODEL, optimizer=optimizer, image_size=SIZE, seed=0)()
    before = jax.device_get(frozen)
    placed = jax.device_put(before, sharding.replicated_sharding(mesh))
    state = state.replace(frozen=placed)
    parameters = count(state.params)
    moments = jax.tree.leaves(state.opt_state)
    moment = -(-parameters // 256) * 256  # padded, so that devices can share it
    assert sum(x.size for x in moments if x.size > 1) == 2 * moment, "Adam's two moments"
    start = jax.device_get(state.params)
    step_fn = jit_train_step(
        mesh,
        model=MODEL,
        optimizer=optimizer,
        weights=np.ones((2, 1), np.float32),
        batch_norm="global",
    )
    target = np.random.default_rng(1).integers(0, 2, (16, 1)).astype(np.float32)
    for seed in range(3):
        batch = sharding.place_batch({"image": images(16, seed), "target": target}, mesh)
        state, numbers = step_fn(state, batch)
        assert np.isfinite(float(numbers["loss"]))
    assert checkpoint_facts.checksums(jax.device_get(state.frozen)) == checkpoint_facts.checksums(
        before
    )
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), start, jax.device_get(state.params))
    assert all(jax.tree.leaves(moved)), "every trained parameter moves"


def test_the_likelihoods_matter_and_no_gradient_goes_through_them(frozen):
    image = jnp.asarray(images(2))
    variables = {**random_variables(MODEL, 0), "frozen": frozen}
    moved = jax.tree.map(jnp.copy, frozen)
    moved["part1"]["params"]["classifier"]["bias"] += 1
    one = apply(variables, image)
    assert np.abs(one - apply({**variables, "frozen": moved}, image)).min() > 1e-3

    def logit(frozen):
        return MODEL.apply({**variables, "frozen": frozen}, image).sum()

    assert not any(np.any(x) for x in jax.tree.leaves(jax.jit(jax.grad(logit))(frozen)))


def test_heatmaps_look_at_part_3(frozen):
    variables = {**random_variables(MODEL, 0), "frozen": frozen}
    cams = np.asarray(jax.jit(partial(grad_cam, model=MODEL))(variables, jnp.asarray(images(2))))
    assert cams.shape == (2, 4, 4)
    assert (cams >= 0).all()
    assert (cams.max((1, 2)) <= 1).all()


# From data sets to heatmaps, as a user runs it


@pytest.fixture(scope="module")
def xray_data(tmp_path_factory):
    root = tmp_path_factory.mktemp("xrays")
    data_dir = root / "data"
    for name, make in (
        ("chestxray14", make_chestxray14),
        ("chest_xray_pneumonia", make_chest_xray),
        ("covid_chestxray", make_covid_chestxray),
    ):
        prepare.build(name, data_dir, source=str(make(root / name)))
    return data_dir


def launch(folder, *arguments, **environment):
    return runs.run(
        ["bash", str(folder / "launch" / "deep_cxr_net.sh"), *map(str, arguments)],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", **environment},
    )


@pytest.fixture(scope="module")
def stages(tmp_path_factory, xray_data):
    """The workdirs of `launch/deep_cxr_net.sh` with narrow networks: all three stages as typed."""
    folder = tmp_path_factory.mktemp("launch")
    (folder / "launch").mkdir()
    for name in ("deep_cxr_net.sh", "options.sh"):
        shutil.copy(REPOSITORY / "launch" / name, folder / "launch")
    # This interpreter instead of an environment of its own.
    (folder / "launch" / "environment.sh").write_text(
        f'environment() {{ :; }}\npython() {{ "{sys.executable}" "$@"; }}\n'
    )
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    for finished in (0, 3):
        process = launch(
            folder,
            folder / "root",
            f"--data_dir={xray_data}",
            "--config.epochs=2",
            "--config.validations_per_epoch=1",
            VARIANT="debug",
        )
        assert process.returncode == 0, process.stderr
        assert process.stdout.count("is finished") == finished
    return folder / "root"


def config_of(stages, **overrides):
    from configs import deep_cxr_net

    config = deep_cxr_net.get_config("debug")
    config.epochs = 2.0
    for part in ("part1", "part2"):
        config.parts[part].workdir = str(stages / f"cxr_{part}")
    config.update_from_flattened_dict(overrides)
    return config


@pytest.mark.long
def test_stages_evaluate_and_predict_from_the_last_workdir_alone(
    stages, xray_data, command, tmp_path
):
    part1 = json.loads((stages / "cxr_part1/evaluation/test/metrics.json").read_text())
    assert list(part1["auc_per_output"]) == list(config_of(stages).parts.part1.outputs)
    assert all(c["positive"] and c["negative"] for c in part1["counts"].values())
    with (stages / "cxr_part1/evaluation/test/predictions.csv").open() as file:
        assert len(next(csv.reader(file))) == 2 + 2 * 6

    workdir = tmp_path / "moved"
    shutil.copytree(stages / "deep_cxr_net", workdir)
    command("evaluate", f"--workdir={workdir}", f"--data_dir={xray_data}", "--split=validation")
    metrics = json.loads((workdir / "evaluation/validation/metrics.json").read_text())
    history = checkpoint_facts.open_checkpoint(workdir).facts.history
    assert metrics["auc"]["value"] == pytest.approx(history[-1].auc, abs=1e-6)

    # A series of two slices is refused as CT, taken as X-ray, and gets a row of its own.
    pixels = np.random.default_rng(0).integers(0, 4000, (2, 70, 70), np.uint16)
    folder = tmp_path / "dicom"
    folder.mkdir()
    ids = {"PatientID": "p", "SeriesInstanceUID": "1.2.3"}
    for i in range(2):
        (folder / f"film{i}").write_bytes(dicom_bytes(pixels[i], Modality="DX", **ids))
    ct = {"Modality": "CT", "RescaleSlope": 2, "RescaleIntercept": -1000}
    (folder / "slice").write_bytes(dicom_bytes(pixels[0], **ct, **ids))
    process = command(
        "predict", f"--workdir={workdir}", "--heatmaps", folder, cwd=tmp_path, check=False
    )
    assert process.returncode == 1
    rows = list(csv.DictReader(process.stdout.splitlines()))
    assert [row["id"].rsplit("/")[-1] for row in rows[:3]] == ["film0", "film1", "slice"]
    assert "modality CT, where X-ray is meant" in rows[2]["error"]
    assert [row["id"] for row in rows[3:]] == ["patient p", "series 1.2.3"]
    mean = (float(rows[0]["probability"]) + float(rows[1]["probability"])) / 2
    for row in rows[3:]:
        assert float(row["probability"]) == pytest.approx(mean, abs=1e-6)
        assert row["images"] == "2"
    assert len(list((tmp_path / "predictions" / "heatmaps").iterdir())) == 2
    process = command(
        "predict", f"--workdir={stages / 'cxr_part1'}", folder / "film0", cwd=tmp_path
    )
    (row,) = csv.DictReader(process.stdout.splitlines())
    assert len([name for name in row if name.startswith("probability_")]) == 6
    assert "decision" not in row


@pytest.mark.long
def test_the_carried_parts_are_those_of_the_stages_and_guard_themselves(stages, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(stages / "deep_cxr_net", workdir)
    loaded = predictor.load(workdir)
    for name in ("part1", "part2"):
        part = predictor.load(stages / f"cxr_{name}")
        own = loaded.variables["frozen"][name]
        assert checkpoint_facts.checksums(own) == checkpoint_facts.checksums(part.variables)
        assert not (
            workdir / "parts" / name / "checkpoints" / str(part.step) / "optimizer"
        ).exists()
    data = sorted((workdir / "parts" / "part1").rglob("d/*"), key=lambda p: p.stat().st_size)[-1]
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(checkpoint_facts.CheckpointError, match="damaged"):
        predictor.load(workdir)


@pytest.mark.long
def test_a_run_resumes_without_the_workdirs_of_its_parts(stages, xray_data, tmp_path):
    for name in ("cxr_part1", "cxr_part2"):
        shutil.copytree(stages / name, tmp_path / name)
    config = config_of(tmp_path, epochs=0.5)
    train.run(config, workdir=tmp_path / "run", data_dir=xray_data)
    last = checkpoint_facts.steps(tmp_path / "run")[-1]
    whole = checkpoint_facts.read_facts(tmp_path / "run", last)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(last))
    for name in ("cxr_part1", "cxr_part2"):
        shutil.rmtree(tmp_path / name)
    train.run(config, workdir=tmp_path / "run", data_dir=xray_data)
    resumed = checkpoint_facts.read_facts(tmp_path / "run", last)
    assert resumed.checksums == whole.checksums


@pytest.mark.long
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"parts.part1.outputs": ("Edema",)}, "has the outputs Atelectasis.*not Edema"),
        ({"preprocessing.size": 96}, "another preprocessing: size 64, here 96"),
        ({"parts.part2.workdir": "deep_cxr_net"}, "holds a deep_cxr_net"),
        ({"parts.part2.workdir": "nowhere"}, "nowhere is not a workdir"),
    ],
)
def test_parts_that_do_not_fit_are_refused(overrides, message, stages, xray_data, tmp_path):
    if name := overrides.get("parts.part2.workdir"):
        overrides = {"parts.part2.workdir": str(stages / name)}
    config = config_of(stages, **overrides)
    with pytest.raises(ValueError, match=message):
        train.run(config, workdir=tmp_path / "run", data_dir=xray_data)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_part_of_another_modality_is_refused(stages, tmp_path):
    config = json.loads(config_of(stages).to_json())
    with pytest.raises(ValueError, match="was trained on X-ray images, these are CT"):
        frozen_parts.find_parts(tmp_path, config, modality="CT")


@pytest.mark.long
def test_a_part_switched_off(stages, xray_data, tmp_path):
    config = config_of(stages, **{"parts.part1.workdir": "", "epochs": 0.3})
    train.run(config, workdir=tmp_path / "run", data_dir=xray_data)
    assert list(predictor.load(tmp_path / "run").variables["frozen"]) == ["part2"]


@pytest.mark.long
def test_part_3_switched_off_leaves_the_frozen_ones_alone(stages, xray_data, command, tmp_path):
    workdir = tmp_path / "run"
    config = config_of(stages, **{"fusion.part3": False, "optimizer.learning_rate": 1e-2})
    train.run(config, workdir=workdir, data_dir=xray_data)
    assert train.run(config, workdir=workdir, data_dir=xray_data).step  # finished before
    loaded = predictor.load(workdir)
    assert set(loaded.variables["params"]) == {"fusion", "classifier"}
    assert count(loaded.variables["params"]) == (8 + 1) * 64 + 65
    command("evaluate", f"--workdir={workdir}", f"--data_dir={xray_data}", "--ablations")
    folder = workdir / "evaluation" / "test"
    assert json.loads((folder / "metrics.json").read_text())["auc"]["value"] is not None
    assert not (folder / "heatmaps.png").exists()
    earlier = tmp_path / "predictions" / "predictions.csv"
    earlier.parent.mkdir()
    earlier.write_text("of an earlier call")
    film = stages / "cxr_part1" / "run.json"  # refused before any image is opened
    process = command(
        "predict", f"--workdir={workdir}", "--heatmaps", film, cwd=tmp_path, check=False
    )
    assert "part 3 of this network is switched off" in process.stderr
    assert earlier.read_text() == "of an earlier call"


def test_at_least_one_part_is_on():
    with pytest.raises(ValueError, match="no other part is given"):
        DeepCXRNet(part3=False)
