"""Exports in 8 bits: what they cost is measured, and refused if it is too much."""

import dataclasses
import importlib

import numpy as np
import pytest

from jaxcovid.data.opening import open_dataset
from jaxcovid.inference import engines
from jaxcovid.weights.export.export import export
from jaxcovid.weights.export.manifest import load_manifest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def blobs(data_dir):
    return open_dataset("folder/blobs", data_dir)


def test_a_file_of_8_bits_says_what_they_cost(trained, blobs, tmp_path):
    exact = export(trained, "onnx", output=tmp_path / "float32")
    small = export(trained, "onnx", output=tmp_path / "int8", int8=blobs)
    aucs = load_manifest(small).validation_auc
    assert set(aucs) == {"float32", "int8"}
    assert aucs["float32"] - aucs["int8"] < 0.005
    assert load_manifest(exact).validation_auc == {}
    source = blobs.source("test")
    images = [source[i]["image"] for i in range(len(source))]
    ours, theirs = (
        engines.load(folder, "onnxruntime").probabilities(images) for folder in (exact, small)
    )
    assert 0 < np.abs(ours - theirs).max() < 0.2


def test_what_costs_too_much_leaves_the_file_as_it_is(trained, blobs, tmp_path, monkeypatch):
    module = importlib.import_module("jaxcovid.weights.export.int8")
    monkeypatch.setattr(module, "LARGEST_LOSS", -1.0)
    with pytest.raises(ValueError, match=r"falls from \d\.\d+ to \d\.\d+, by -1.0 or more"):
        export(trained, "onnx", output=tmp_path / "export", int8=blobs)
    assert load_manifest(tmp_path / "export").validation_auc == {}
    assert engines.load(tmp_path / "export", "onnxruntime").task.outputs == ("COVID-19",)


def test_8_bits_need_the_data_of_the_training_and_pixels(trained, blobs, tmp_path):
    other = dataclasses.replace(blobs, digest="0" * 64)
    for arguments, message in (
        ({"format_name": "onnx", "int8": other}, "needs the data of the training, folder/blobs"),
        ({"format_name": "stablehlo", "int8": blobs}, "--int8 is of --format=onnx"),
        ({"format_name": "onnx", "input_name": "network", "int8": blobs}, "--input=pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            export(trained, output=tmp_path / "none", **arguments)
        assert not (tmp_path / "none").exists()
