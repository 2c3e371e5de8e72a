"""Exported networks: each is run by a process without jaxcovid, and does what the workdir does."""

import json
import os
import pathlib
import re
import shutil
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

import jaxcovid
from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.weights.export import manifest as manifests
from jaxcovid.weights.export.export import FORMATS, export
from jaxcovid.weights.export.program import make_program

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "export.md"
NEEDED = {"onnx": "onnx", "savedmodel": "tensorflow", "stablehlo": "jax", "torch": "safetensors"}
EXAMPLES = re.findall(r"<!-- tested: (\w+) -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
# Loads each format by its own library: {"image" or "pixels": array} -> probability and heatmap.
RUN = """
import pathlib, sys
import numpy as np
kind, name = sys.argv[1:]
x = np.load("x.npy")
if kind == "onnx":
    import onnxruntime
    names = ["probability", "heatmap"]
    made = dict(zip(names, onnxruntime.InferenceSession("out/model.onnx").run(names, {name: x})))
elif kind == "savedmodel":
    import tensorflow as tf
    made = tf.saved_model.load("out/model").signatures["serving_default"](**{name: tf.constant(x)})
else:
    from jax import export
    file = pathlib.Path("out/model.stablehlo")
    made = export.deserialize(bytearray(file.read_bytes())).call(x)
assert "jaxcovid" not in sys.modules
np.savez("made.npz", **{name: np.asarray(value) for name, value in made.items()})
"""


def fresh(folder, *words):
    """A Python process that knows nothing of jaxcovid; returns what it prints."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"JAX_NUM_CPU_DEVICES": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    process = runs.run([sys.executable, *words], cwd=folder, env=environment)
    assert process.returncode == 0, process.stderr
    return process.stdout


def run_fresh(folder, kind, name, x):
    np.save(folder / "x.npy", x)
    fresh(folder, "-c", RUN, kind, name)
    return np.load(folder / "made.npz")


def slices(shape, n=3):
    rng = np.random.default_rng(shape[0])
    smooth = [cv2.resize(rng.integers(0, 256, (9, 9), np.uint8), shape[::-1]) for _ in range(n)]
    for image in smooth:
        cv2.circle(image, (shape[1] // 3, shape[0] // 2), min(shape) // 6, 240, -1)
    return np.stack(smooth)


@pytest.fixture(scope="module")
def network(trained):
    return jaxcovid.load(trained)


KINDS = ["onnx", "stablehlo", pytest.param("savedmodel", marks=pytest.mark.long)]


@pytest.mark.parametrize("kind", KINDS)
def test_from_pixels_of_any_size_and_number(kind, network, tmp_path):
    pytest.importorskip(NEEDED[kind])
    folder = export(network.workdir, kind, output=tmp_path / "out")
    size = network.preprocessing.size
    for shape, n in (((90, 70), 3), ((2 * size, 2 * size), 1), ((size // 2, 300), 2)):
        pixels = slices(shape, n)
        made = run_fresh(tmp_path, kind, "pixels", pixels)
        ours = network.probabilities(list(pixels))
        np.testing.assert_allclose(made["probability"], ours, atol=1e-3)
        np.testing.assert_allclose(made["heatmap"][:, 0], network.heatmaps(list(pixels)), atol=0.02)
    manifest = manifests.load_manifest(folder)
    assert manifest.classes == network.outputs
    assert manifest.thresholds == network.thresholds
    assert manifest.dataset["digest"] == network.run.dataset.digest
    assert manifest.outputs["heatmap"]["shape"][1:] == list(made["heatmap"].shape[1:])
    assert {"out_of_distribution.npz", "training_facts.npz"} <= set(manifest.files)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_from_the_input_of_the_network(kind, network, tmp_path):
    pytest.importorskip(NEEDED[kind])
    export(network.workdir, kind, output=tmp_path / "out", input_name="network")
    image = np.stack(network.prepare(slices((100, 120), 5))[0])
    made = run_fresh(tmp_path, kind, "image", image)
    ours = jax.jit(make_program(network).from_input)(image)
    np.testing.assert_allclose(made["probability"], ours["probability"], atol=1e-4)
    np.testing.assert_allclose(made["heatmap"], ours["heatmap"], atol=1e-3)


def test_a_state_dict_has_the_names_of_torchvision_and_every_number(network, tmp_path):
    numpy_tensors = pytest.importorskip("safetensors.numpy")
    from jaxcovid.weights.export.torch import torch_name

    folder = export(network.workdir, "torch", output=tmp_path / "out")
    tensors = numpy_tensors.load_file(folder / "backbone.safetensors")
    assert all(name.startswith("features.") for name in tensors)
    tensors |= numpy_tensors.load_file(folder / "rest.safetensors")
    assert "features.denseblock2.denselayer1.conv2.weight" in tensors
    assert "features.transition1.norm.running_var" in tensors
    counters = {name for name in tensors if name.endswith("num_batches_tracked")}
    assert len(counters) == sum(name.endswith("running_mean") for name in tensors)
    seen = set()
    for collection in ("params", "batch_stats"):
        for path, array in jax.tree_util.tree_leaves_with_path(network.variables[collection]):
            name = torch_name(tuple(key.key for key in path), densenet=True)
            tensor = tensors[name]
            back = {4: (2, 3, 1, 0), 2: (1, 0)}.get(tensor.ndim)
            np.testing.assert_array_equal(tensor.transpose(back) if back else tensor, array)
            seen.add(name)
    assert seen | counters == set(tensors)


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_lite0"])
def test_another_backbone_keeps_its_names(name):
    from jaxcovid.weights.export.torch import state_dict

    model = DeepCTNet(backbone_name=name, attention="none", head="gap")
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    tensors = state_dict(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
    assert {name.split(".")[0] for name in tensors} == {"backbone", "norm", "classifier"}
    assert "backbone.stem_conv.weight" in tensors


@pytest.mark.long
@pytest.mark.parametrize(("kind", "code"), EXAMPLES)
def test_the_examples_of_the_page(kind, code, network, tmp_path):
    pytest.importorskip(NEEDED[kind])
    for library in ("openvino", "onnxruntime"):
        if f"import {library}" in code:
            pytest.importorskip(library)
    export(network.workdir, kind, output=tmp_path / "exported")
    gray = slices((80, 100), 1)[0]
    cv2.imwrite(str(tmp_path / "scan.png"), gray)
    name, probability, _ = fresh(tmp_path, "-c", code).split(maxsplit=2)
    assert name == "COVID-19"
    assert float(probability) == pytest.approx(network.probabilities([gray])[0, 0], abs=1e-3)


def test_every_format_that_runs_has_an_example():
    assert {kind for kind, _ in EXAMPLES} == set(FORMATS) - {"torch"}


def test_the_model_card_of_the_checkpoint_goes_along(trained, network, tmp_path):
    pytest.importorskip(NEEDED["torch"])
    workdir = shutil.copytree(trained, tmp_path / "run")
    evaluated = workdir / "evaluation" / "test"
    shutil.rmtree(workdir / "evaluation", ignore_errors=True)
    evaluated.mkdir(parents=True)
    (evaluated / "model_card.md").write_text("# Card")
    for step, goes_along in ((network.step, True), (network.step + 1, False)):
        (evaluated / "metrics.json").write_text(json.dumps({"run": {"step": step}}))
        folder = export(workdir, "torch", output=tmp_path / "out")
        assert (folder / "model_card.md").exists() == goes_along
        assert ("model_card.md" in manifests.load_manifest(folder).files) == goes_along


def test_a_folder_of_something_else_is_left_alone(network, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        export(network.workdir, "stablehlo", output=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_missing_library_is_named_with_the_command_that_installs_it(network, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=re.escape("pip install 'jaxcovid[onnx]'")):
        export(network.workdir, "onnx")


def test_a_network_of_altered_images_is_refused(network, monkeypatch):
    config = {**network.run.config, "ablation": "border_only"}
    monkeypatch.setitem(network.run.__dict__, "config", config)
    with pytest.raises(ValueError, match="ablation=border_only"):
        make_program(network)


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    return export(network.workdir, "stablehlo", output=tmp_path_factory.mktemp("exported"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "holds no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is damaged"),
        (lambda folder: (folder / "model.stablehlo").unlink(), "is missing"),
        (lambda folder: (folder / "model.stablehlo").write_bytes(b"x"), "its manifest says"),
        (lambda folder: edit(folder, format_version=9), "has format 9"),
        (lambda folder: edit(folder, classes=None), "is damaged"),
        (lambda folder: edit(folder, preprocessing={"size": 0}), "size 0 is no number of pixels"),
        (lambda folder: edit(folder, files={"../x": ""}), "outside of the folder"),
    ],
)
def test_a_damaged_folder_is_refused(damage, message, exported, tmp_path):
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifests.load_manifest(tmp_path)
    damage(tmp_path)
    with pytest.raises(manifests.ManifestError, match=message):
        manifests.load_manifest(tmp_path)


def edit(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
