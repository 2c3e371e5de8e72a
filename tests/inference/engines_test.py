"""Screening with an exported network: the same table, without JAX."""

import csv
import dataclasses
import io
import sys

import cv2
import numpy as np
import pytest
import runs

from jaxcovid import predict
from jaxcovid.inference import engines
from jaxcovid.inference.training_facts import load_training_facts
from jaxcovid.weights.export.export import export
from jaxcovid.weights.export.manifest import ManifestError

ENGINES = ("onnxruntime", "openvino")
# Runs a command as `python -m` does, then says which of the libraries it has imported.
WATCHED = """
import runpy, sys
sys.argv = ["predict", *sys.argv[1:]]
try:
    runpy.run_module("jaxcovid.predict", run_name="__main__", alter_sys=True)
finally:
    libraries = {"jax", "flax", "tensorflow", "sklearn", "scipy"}
    print("imported:", libraries & set(sys.modules), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    pytest.importorskip("onnx")
    return export(trained, "onnx", output=tmp_path_factory.mktemp("engines") / "exported")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of two sizes, one that cannot be used and a volume."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(5):
        image = rng.integers(60, 120, (70, 80 + 9 * (i % 2)), np.uint8)
        cv2.circle(image, (20 + 5 * i, 40), 14, 230, -1)
        cv2.imwrite(str(folder / f"{i}.png"), image)
    (folder / "text.png").write_bytes(b"no image")
    np.save(folder / "volume.npy", rng.integers(-1000, 200, (3, 64, 64)).astype(np.int16))
    return folder


@pytest.mark.parametrize("engine", ENGINES)
def test_the_table_is_that_of_the_workdir(engine, exported, trained, folder, tmp_path):
    pytest.importorskip(engine)
    ours = list(predict.run(trained, [folder], heatmaps=tmp_path / "a"))
    theirs = list(predict.run(exported, [folder], engine=engine, heatmaps=tmp_path / "b"))
    assert len(ours) == len(theirs) == 5 + 1 + 3 + 1
    for our, their in zip(ours, theirs, strict=True):
        if our["probability"]:
            assert abs(float(our.pop("probability")) - float(their.pop("probability"))) < 1e-3
        assert our == their
    for picture in (tmp_path / "a").iterdir():
        pair = [cv2.imread(str(tmp_path / side / picture.name)).astype(int) for side in "ab"]
        assert np.abs(pair[0] - pair[1]).mean() < 1


@pytest.mark.parametrize("engine", ENGINES)
def test_it_imports_no_jax(engine, exported, folder):
    pytest.importorskip(engine)
    process = runs.run(
        [sys.executable, "-c", WATCHED, f"--model={exported}", f"--engine={engine}", folder]
    )
    rows = list(csv.DictReader(io.StringIO(process.stdout)))
    assert sum(bool(row["probability"]) for row in rows) == 9, process.stderr
    assert "imported: set()" in process.stderr


def test_the_facts_of_its_training_come_along(exported, trained):
    pytest.importorskip("onnxruntime")
    ours = load_training_facts(trained)
    theirs = engines.load(exported, "onnxruntime").training_facts
    assert theirs.prevalence == ours.prevalence
    np.testing.assert_array_equal(theirs.facts, ours.facts)


def test_images_keep_their_order_whatever_their_sizes(exported, folder):
    pytest.importorskip("onnxruntime")
    network = engines.load(exported, "onnxruntime")
    grays = [network.read_gray(folder / f"{i}.png") for i in range(5)]
    together = network.probabilities(grays)
    alone = np.concatenate([network.probabilities([gray]) for gray in grays])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert len(np.unique(alone)) == 5


def test_masks_are_brought_back_to_the_images(exported):
    """The engine is made up: lungs where a pixel of the network's input is bright, no lesion."""
    pytest.importorskip("onnxruntime")
    network = engines.load(exported, "onnxruntime")
    assert not network.segments
    with pytest.raises(ValueError, match="has no decoder"):
        network.segment([np.zeros((9, 9), np.uint8)])

    def bright(pixels):
        inputs = [cv2.resize(gray, (32, 16)) for gray in pixels]
        padded = np.pad(np.stack(inputs), ((0, 0), (8, 8), (0, 0)), constant_values=255)
        return np.stack([padded > 128, np.zeros(padded.shape)], 1).astype(np.float32)

    steps = {**network.manifest.preprocessing, "size": 32, "keep_ratio": True}
    outputs = {**network.manifest.outputs, "masks": {"shape": ["b", 2, 32, 32]}}
    network = dataclasses.replace(
        network,
        manifest=dataclasses.replace(network.manifest, preprocessing=steps, outputs=outputs),
        load_engine={"masks": bright}.__getitem__,
    )
    grays = [np.zeros(shape, np.uint8) for shape in ((40, 80), (64, 128), (40, 80))]
    for column, gray in enumerate(grays):
        gray[:, 20 * column : 20 * column + 20] = 255
    masks = network.segment(grays)
    assert [mask.shape for mask in masks] == [(40, 80, 2), (64, 128, 2), (40, 80, 2)]
    for mask, gray in zip(masks, grays, strict=True):
        assert ((mask[..., 0] > 0.5) == (gray > 0)).mean() > 0.97
        assert not mask[..., 1].any()


def test_another_format_and_a_missing_engine_are_refused(exported, trained, monkeypatch, tmp_path):
    export(trained, "stablehlo", output=tmp_path / "other")
    with pytest.raises(ManifestError, match=r"holds stablehlo .* --format=onnx"):
        engines.load(tmp_path / "other", "openvino")
    for engine in ENGINES:
        monkeypatch.setitem(sys.modules, engine, None)
        with pytest.raises(ValueError, match=rf"pip install 'jaxcovid\[{engine}\]'"):
            engines.load(exported, engine)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir=w", "--engine=openvino"], "--engine=openvino needs the --model"),
        (["--model=m", "--engine=jax"], "--engine=jax needs the --workdir"),
        (["--model=m", "--step=3"], "an exported network has one step"),
        (["--model=m", "--workdir=w"], "not allowed with"),
        ([], "one of the arguments --workdir --model is required"),
    ],
)
def test_flags_that_do_not_fit(flags, message):
    process = runs.run([sys.executable, "-m", "jaxcovid.predict", *flags, "a.png"])
    assert process.returncode == 2
    assert message in process.stderr


def test_an_export_says_what_its_outputs_are(exported):
    pytest.importorskip("onnxruntime")
    network = engines.load(exported, "onnxruntime")
    assert network.explained == network.outputs == ("COVID-19",)
    assert network.classifies
    outputs = {name: each for name, each in network.manifest.outputs.items() if name != "heatmap"}
    outputs["masks"] = {"shape": ["b", 2, 32, 32], "meaning": "lungs and lesion"}
    manifest = dataclasses.replace(network.manifest, outputs=outputs)
    segments = dataclasses.replace(network, manifest=manifest)
    assert segments.explained == ()
    assert not segments.classifies
