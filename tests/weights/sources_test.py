"""Networks of every source give the features of their own code, from each of their files.

Narrow ones of PyTorch lie in `golden/weights`, made by `source_networks.py`; Keras' are made here.
The full ones are built where JAXCOVID_SOURCES_PYTHON names a Python with torch, torchvision, timm,
torchxrayvision, safetensors, keras and h5py.
"""

import json
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest
import runs
from conversions import convert, differences, files_of

from jaxcovid.weights.files.read import WeightFile, read_weights
from jaxcovid.weights.files.weight_file import Content
from jaxcovid.weights.recognise import recognise
from jaxcovid.weights.sources import densenet, jfhealthcare, torchxrayvision

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "weights"
SCRIPT = pathlib.Path(__file__).with_name("source_networks.py")
MOST = 1e-4  # difference of features and logits


@pytest.fixture(autouse=True)
def narrow_networks(monkeypatch):
    """Narrow networks beside the full ones; Keras' growth rate is always 32."""
    shapes = {"narrow": (4, (1, 2, 1, 1)), "narrow_keras": (32, (1, 2, 1, 1))}
    for name, shape in shapes.items():
        monkeypatch.setitem(densenet.NETWORKS, name, densenet.DenseNetShape(*shape))


def build(python, source, size, folder):
    process = runs.run([python, SCRIPT, source, size, folder], env={**os.environ})
    assert process.returncode == 0, process.stderr[-3000:]
    return folder


def check(folder, origin, backbone, count):
    """All files of a source give the same variables, and these what its own code gave."""
    first, *others = [(path.name, convert(path)) for path in files_of(folder)]
    assert len(others) == count - 1
    for name, weights in (first, *others):
        assert (weights.origin.name, weights.backbone) == (origin, backbone), name
        assert weights.variables.keys() == first[1].variables.keys(), name
        for path, array in weights.variables.items():
            np.testing.assert_array_equal(array, first[1].variables[path], err_msg=name)
    parameters = sum(array.size for array in first[1].variables.values())
    run = np.load(folder / "run.npz")
    assert np.abs(run["features"]).max() > 0.1  # else small differences say nothing
    found = differences(first[1], run)
    print(
        f"{origin} {backbone}: {count} files, {len(first[1].variables)} arrays, "
        f"{parameters:,} values, differences {found}"
    )
    assert max(found.values()) < MOST


@pytest.mark.parametrize(
    ("source", "count"),
    [("torchvision", 4), ("timm", 2), ("torchxrayvision", 1), ("jfhealthcare", 1)],
)
def test_golden_networks(source, count):
    """If this fails after a change of `source_networks.py`, run it again; else the reader is wrong.

    python tests/weights/source_networks.py SOURCE narrow tests/golden/weights/SOURCE
    """
    check(GOLDEN / source, source, "narrow", count)


def test_keras_networks_and_their_epsilon(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    check(build(sys.executable, "keras", "narrow", tmp_path / "k"), "keras", "narrow_keras", 4)
    weights = convert(tmp_path / "k" / "model.keras")
    assert weights.epsilon == 1.001e-5
    assert "exact" in weights.epsilon_treatment


FULL = [
    ("torchvision", "full", "torchvision", "densenet121", 4),
    ("torchvision_169", "full", "torchvision", "densenet169", 1),
    ("timm", "full", "timm", "densenet121", 2),
    ("torchxrayvision", "full", "torchxrayvision", "densenet121", 2),
    ("jfhealthcare", "full", "jfhealthcare", "densenet121", 1),
    ("keras", "full", "keras", "densenet121", 4),
    ("keras", "169", "keras", "densenet169", 4),
]


@pytest.mark.long
@pytest.mark.parametrize(("source", "size", "origin", "backbone", "count"), FULL)
def test_full_networks(source, size, origin, backbone, count, tmp_path):
    python = os.environ.get("JAXCOVID_SOURCES_PYTHON")
    if not python:
        pytest.skip("JAXCOVID_SOURCES_PYTHON names no Python with the packages of the sources")
    check(build(python, source, size, tmp_path / source), origin, backbone, count)


def content_of(path, **changes):
    """The content of a golden file with some arrays replaced; None leaves one out."""
    arrays = dict(read_weights(path).content.arrays)
    for name, array in changes.items():
        del arrays[name]
        if array is not None:
            arrays[name] = array
    return WeightFile(path.name, "", Content(arrays))


def test_a_file_of_no_known_network_is_refused_with_the_nearest():
    path = GOLDEN / "torchvision" / "current.pth"
    missing = content_of(path, **{"features.norm5.bias": None})
    with pytest.raises(ValueError, match=r"Nearest is narrow of torchvision, with 73 of its 74"):
        recognise(missing)
    more = {**read_weights(path).content.arrays, "neck.weight": np.zeros(3)}
    with pytest.raises(ValueError, match=r"1 array \(neck.weight\) unknown"):
        recognise(WeightFile("x", "", Content(more)))
    for arrays in ({}, {"conv1.weight": np.zeros(3)}):
        with pytest.raises(ValueError, match=r"none of a network that is known; converted are"):
            recognise(WeightFile("x", "", Content(arrays)))


def test_a_wider_network_is_refused_with_its_shapes():
    kernel = np.zeros((8, 3, 5, 5), np.float32)
    file = content_of(GOLDEN / "torchvision" / "current.pth", **{"features.conv0.weight": kernel})
    with pytest.raises(ValueError, match=r"conv0.weight is \[8, 3, 5, 5\] instead of \[8, 3, 7"):
        recognise(file).carry_out(file)


def test_weights_that_are_not_finite_are_refused():
    bias = np.full(8, np.nan, np.float32)
    file = content_of(GOLDEN / "torchvision" / "current.pth", **{"features.norm0.bias": bias})
    with pytest.raises(ValueError, match=r"features.norm0.bias: some values are not finite"):
        recognise(file).carry_out(file)


def test_every_array_is_used_or_skipped_with_a_reason():
    skipped = " ".join(convert(GOLDEN / "torchvision" / "current.pth").skipped)
    assert "15 arrays" in skipped
    assert "counters of batches" in skipped
    assert "classifier of 5 classes" in skipped


def test_timm_is_recognised_by_its_class_or_its_configuration(tmp_path):
    file = GOLDEN / "timm" / "hub" / "model.safetensors"
    weights = convert(file)
    assert (weights.origin.name, weights.origin.licence) == ("timm", "Apache-2.0")
    assert weights.input.mean == (0.5, 0.5, 0.5)
    shutil.copy(file, tmp_path)
    assert convert(tmp_path / file.name).origin.name == "torchvision"


def test_torchxrayvision_has_18_outputs_and_its_input_range():
    weights = convert(GOLDEN / "torchxrayvision" / "module.pt")
    assert weights.outputs == torchxrayvision.FINDINGS
    assert (weights.attention, weights.head) == ("none", "gap")
    assert weights.input.preprocessing_mean == weights.input.preprocessing_std == 127.5
    kernel = weights.variables["params/backbone/stem_conv/kernel"]
    assert kernel.shape == (7, 7, 3, 8)
    np.testing.assert_array_equal(kernel[:, :, 0], kernel[:, :, 2])


def of_jfhealthcare(folder, **changes):
    """The weights converted with another `cfg.json`; None goes without one."""
    shutil.copy(GOLDEN / "jfhealthcare" / "best1.ckpt", folder)
    cfg = json.loads((GOLDEN / "jfhealthcare" / "cfg.json").read_text())
    if None not in changes.values():
        (folder / "cfg.json").write_text(json.dumps(cfg | changes))
    return convert(folder / "best1.ckpt")


def test_jfhealthcare_says_what_its_heads_read():
    weights = convert(GOLDEN / "jfhealthcare" / "best1.ckpt")
    assert weights.outputs == ("head 0", "head 1", "head 2")
    assert weights.holds == ("backbone", "classifier", "norm", "pyramid_attention")
    assert "only its first output" in weights.notes[0]
    assert (weights.input.preprocessing_mean, weights.input.preprocessing_std) == (128, 64)


@pytest.mark.parametrize(
    ("changes", "attention", "reason"),
    [
        ({"any": None}, None, "only cfg.json of the training says"),
        ({"attention_map": "SAM"}, None, "the attention 'SAM' has no counterpart"),
        ({"global_pool": "PCAM"}, "compact", "the pooling 'PCAM' has no counterpart"),
        ({"num_classes": [2, 2, 2]}, "compact", "heads of other than one class"),
        ({"num_classes": [1, 1]}, "compact", "the file has 3 heads where cfg.json has 2"),
    ],
)
def test_jfhealthcare_without_a_counterpart(changes, attention, reason, tmp_path):
    weights = of_jfhealthcare(tmp_path, **changes)
    assert (weights.attention, weights.head, weights.outputs) == (attention, None, ())
    assert "classifier" not in weights.holds
    assert reason in " ".join(weights.skipped)


def test_jfhealthcare_without_attention_or_normalisation(tmp_path):
    weights = of_jfhealthcare(tmp_path, attention_map="None", fc_bn=False)
    assert (weights.attention, weights.head, weights.notes) == ("none", "gap", ())
    assert "which is off (fc_bn)" in " ".join(weights.skipped)


def test_jfhealthcare_with_another_normalisation_is_refused(tmp_path):
    with pytest.raises(ValueError, match="norm_type 'InstanceNorm'; only BatchNorm"):
        of_jfhealthcare(tmp_path, norm_type="InstanceNorm")


def test_the_five_diseases_of_jfhealthcare_have_names():
    content = read_weights(GOLDEN / "jfhealthcare" / "best1.ckpt").content
    more = {
        name.replace("_0.", f"_{head}."): array
        for name, array in content.arrays.items()
        if name.startswith(("fc_0.", "bn_0."))
        for head in (3, 4)
    }
    settings = {"cfg.json": content.settings["cfg.json"] | {"num_classes": [1] * 5}}
    file = WeightFile("x", "", Content({**content.arrays, **more}, settings=settings))
    weights = recognise(file).carry_out(file)
    assert weights.outputs == jfhealthcare.DISEASES
    kernel = weights.variables["params/classifier/kernel"]
    np.testing.assert_array_equal(kernel[:, 0], kernel[:, 4])
