"""The folder of converted weights: what is written is read again; what is damaged is refused."""

import dataclasses
import json

import numpy as np
import pytest

from jaxcovid.weights.converted import ARRAYS_FILE, FACTS_FILE, ConvertedWeights, Input, Origin

WEIGHTS = ConvertedWeights(
    variables={
        "params/backbone/stem_conv/kernel": np.ones((7, 7, 3, 8), np.float32),
        "batch_stats/norm/mean": np.zeros(4, np.float32),
    },
    backbone="densenet121",
    origin=Origin("torchvision", "https://example.org", "BSD-3-Clause", "x.pth", "0" * 64),
    input=Input(3, 0.0, 1.0, (0.5,), (0.25,), preprocessing_mean=127.5, preprocessing_std=64),
    epsilon=1.001e-5,
    epsilon_treatment="added",
    attention="compact",
    head="gap",
    outputs=("Edema", "Épanchement"),
    skipped=("2 arrays: no use",),
    notes=("a note",),
)


@pytest.fixture
def folder(tmp_path):
    WEIGHTS.write(tmp_path / "converted")
    return tmp_path / "converted"


def test_what_is_written_is_read(folder):
    weights = ConvertedWeights.read(folder)
    assert weights.holds == ("backbone", "norm")
    assert weights.variables.keys() == WEIGHTS.variables.keys()
    for name, array in WEIGHTS.variables.items():
        np.testing.assert_array_equal(weights.variables[name], array)
    assert dataclasses.replace(weights, variables={}) == dataclasses.replace(WEIGHTS, variables={})


def test_a_backbone_alone_is_read(tmp_path):
    alone = dataclasses.replace(WEIGHTS, attention=None, head=None, outputs=())
    alone.write(tmp_path)
    assert ConvertedWeights.read(tmp_path).head is None


def test_nothing_is_overwritten(folder):
    with pytest.raises(FileExistsError, match="holds converted weights already; remove it"):
        WEIGHTS.write(folder)


def test_a_folder_without_weights_is_refused(folder, tmp_path):
    with pytest.raises(
        ValueError, match=r"holds no converted weights .*python -m jaxcovid.convert"
    ):
        ConvertedWeights.read(tmp_path)
    (folder / ARRAYS_FILE).unlink()
    with pytest.raises(ValueError, match="holds no converted weights"):
        ConvertedWeights.read(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format_version": 2}, "its version is 2, not 1"),
        ({"format_version": None}, "its version is unknown, not 1"),
        ({"sha256": "0" * 64}, "SHA-256 differs"),
        ({"backbone": 121}, "backbone is missing or is no value of its kind"),
        ({"outputs": "Edema"}, "outputs is missing or is no value"),
        ({"outputs": [1]}, "outputs is missing or is no value"),
        ({"epsilon": True}, "epsilon is missing or is no value"),
        ({"origin": None}, "lacks the origin or the input"),
        ({"input": {}}, "channels is missing"),
        ({"holds": ["backbone"]}, "names other modules"),
    ],
)
def test_a_damaged_description_is_refused(changes, reason, folder):
    facts = json.loads((folder / FACTS_FILE).read_text())
    (folder / FACTS_FILE).write_text(json.dumps(facts | changes))
    with pytest.raises(ValueError, match=rf"weights\.json .* {reason}.*; convert the weights anew"):
        ConvertedWeights.read(folder)


def test_a_flipped_bit_is_noticed(folder):
    data = bytearray((folder / ARRAYS_FILE).read_bytes())
    data[-1] ^= 1
    (folder / ARRAYS_FILE).write_bytes(data)
    with pytest.raises(ValueError, match=r"weights\.safetensors is not the file that was written"):
        ConvertedWeights.read(folder)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"params/../../x": np.ones(1, np.float32)}, None),
        ({"other/backbone/x": np.ones(1, np.float32)}, "no path of a variable"),
        ({"params//x": np.ones(1, np.float32)}, "no path of a variable"),
        ({"params/backbone/x": np.ones(1)}, "is float64 instead of float32"),
    ],
)
def test_other_variables_are_refused(variables, reason, tmp_path):
    dataclasses.replace(WEIGHTS, variables=variables).write(tmp_path)
    if reason:
        with pytest.raises(ValueError, match=reason):
            ConvertedWeights.read(tmp_path)
    else:  # a path of variables leads to no file
        assert ConvertedWeights.read(tmp_path).holds == ("..",)
