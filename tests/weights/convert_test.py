"""The command `convert`, on a DenseNet-121 of random weights and from an installed package."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

from jaxcovid import convert
from jaxcovid.weights import find
from jaxcovid.weights.converted import ConvertedWeights
from jaxcovid.weights.sources.densenet import NETWORKS
from jaxcovid.weights.sources.torch_densenet import backbone_entries


@pytest.fixture
def densenet121(tmp_path):
    """A file of torchvision's DenseNet-121."""
    arrays = {
        name: np.ones(shape, np.float32)
        for entry in backbone_entries(NETWORKS["densenet121"])
        for name, shape in entry.theirs.items()
    }
    arrays["classifier.weight"] = np.zeros((1000, 1024), np.float32)
    safetensors.numpy.save_file(arrays, tmp_path / "densenet121.safetensors")
    return tmp_path / "densenet121.safetensors"


def test_the_command_says_what_became_of_a_file(densenet121, command, tmp_path):
    out = tmp_path / "converted"
    said = command("convert", densenet121, f"--out={out}").stdout
    for text in (
        "densenet121 of torchvision (BSD-3-Clause, https://github.com/pytorch/vision)",
        "loaded: 604 arrays, 6,953,856 parameters: backbone",
        "skipped: 1 array (classifier.weight): classifier of 1,000 classes that are not ours",
        "mismatched: nothing",
        "epsilon: 1e-05, the same as ours",
        "input: 3 channels of 0 to 1, mean (0.485, 0.456, 0.406)",
        f"written to {out}",
    ):
        assert text in said
    weights = ConvertedWeights.read(out)
    assert weights.backbone == "densenet121"
    assert weights.origin.file == densenet121.name
    assert len(weights.origin.sha256) == 64
    again = command("convert", densenet121, f"--out={out}", check=False)
    assert again.returncode == 1
    assert again.stderr == (
        f"error: {out} holds converted weights already; remove it or name another folder\n"
    )


def test_a_file_of_no_format_ends_in_one_message(command, tmp_path):
    process = command("convert", sys.executable, f"--out={tmp_path / 'out'}", check=False)
    assert process.returncode == 1
    assert process.stderr.startswith(f"error: {sys.executable}: it is none of the formats")
    assert not (tmp_path / "out").exists()


def package_of(monkeypatch, *paths):
    files = [SimpleNamespace(name=path.name, locate=lambda path=path: path) for path in paths]
    monkeypatch.setattr(find.importlib.metadata, "files", lambda name: files)


def test_a_package_is_searched_for_its_file(densenet121, monkeypatch, tmp_path):
    package_of(monkeypatch, tmp_path / "model.py", densenet121)
    weights = convert.run("some-model", tmp_path / "out")
    assert weights.origin.file == "some-model/densenet121.safetensors"


def test_a_package_of_none_or_several_files_is_refused(monkeypatch, tmp_path):
    package_of(monkeypatch, tmp_path / "model.py")
    with pytest.raises(ValueError, match="the package some-model has 0 files of weights"):
        find.find_file("some-model")
    package_of(monkeypatch, tmp_path / "a.pth", tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"has 2 files of weights, .*; name one by its path\n  /"):
        find.find_file("some-model")


@pytest.mark.parametrize("name", ["no-such-package-at-all", "", "../x"])
def test_what_is_neither_file_nor_package_is_refused(name):
    with pytest.raises(ValueError, match="is neither a file nor an installed package"):
        find.find_file(name)
