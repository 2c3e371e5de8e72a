"""The backbones beside DenseNet-121: their published sizes, and what all backbones have in common.

`densenet_test` and `deep_ct_net_test` compare DenseNet-121 with its fused form and with references.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from backbone_checks import assert_bfloat16_keeps_float32, random_image, random_variables
from jax.sharding import PartitionSpec as P

from jaxcovid.inference.grad_cam import grad_cam
from jaxcovid.models.backbones import BACKBONES, FOR_SCREENING_ALONE
from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.models.efficientnet_lite import Block, EfficientNetLite, convolve_depthwise
from jaxcovid.models.light_cnn import LightCNN
from jaxcovid.models.resnet import ResNet
from jaxcovid.models.vgg import VGG
from jaxcovid.runtime import sharding
from jaxcovid.runtime.sharding import BATCH_AXIS

CHANNELS = {
    "densenet121": 1024,
    "densenet169": 1664,
    "resnet50": 2048,
    "efficientnet_lite0": 1280,
    "vgg16": 512,
    "light_cnn": 256,
}
# Published: with a fully connected layer for the 1,000 classes of ImageNet.
PUBLISHED = {
    "densenet121": 7_978_856,
    "densenet169": 14_149_480,
    "resnet50": 25_557_032,
    "efficientnet_lite0": 4_652_008,
    "vgg16": 14_714_688 + 513_000,  # without its own fully connected layers, and with this one
}
NARROW = {
    "resnet": partial(ResNet, width=4, depths=(1, 2, 1, 1)),
    "vgg": partial(VGG, widths=(2, 3, 4, 4, 5), depths=(1, 1, 2, 1, 1)),
    "efficientnet_lite": partial(
        EfficientNetLite,
        blocks=(
            Block(3, 1, 1, 4),
            *(Block(size, 2, 2, 6) for size in (3, 5, 3)),
            Block(3, 1, 2, 6),
            Block(5, 2, 2, 8),
        ),
    ),
}


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def evaluate(model, variables, image):
    """Maps in training, gradients of a weighted sum of them, and the running moments after."""

    def loss(params):
        maps, updates = model.apply(
            {**variables, "params": params}, image, train=True, mutable=["batch_stats"]
        )
        weights = [jnp.cos(jnp.arange(x[0].size)).reshape(1, *x.shape[1:]) for x in maps]
        return sum((x * w).sum() for x, w in zip(maps, weights, strict=True)), (maps, updates)

    gradients, (maps, updates) = jax.grad(loss, has_aux=True)(variables["params"])
    return gradients, maps, updates


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_published(name):
    model = DeepCTNet(backbone_name=name, head="gap", attention="none", outputs=1000)
    image = jnp.zeros((2, 96, 160, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    features = jax.eval_shape(partial(model.apply, method="features"), variables, image)
    assert features.shape == (2, 3, 5, CHANNELS[name])
    norm = 2 * CHANNELS[name]  # ours, before the classifier
    parameters = sum(x.size for x in jax.tree.leaves(variables["params"])) - norm
    assert parameters == PUBLISHED[name]


def test_the_fire_modules_have_the_size_of_squeezenet():
    """Its 1,248,424 parameters less its classifier of 512 channels, and what is new."""
    assert set(BACKBONES) == {*PUBLISHED, *FOR_SCREENING_ALONE}
    image = jnp.zeros((2, 96, 160, 1))
    variables = jax.eval_shape(partial(LightCNN().init, train=False), jax.random.key(0), image)
    counted = jax.tree.leaves(
        {
            layer: {k: v for k, v in tree.items() if k != "norm"}
            for layer, tree in variables["params"].items()
            if not layer.startswith("final")
        }
    )
    assert sum(x.size for x in counted) == 1_248_424 - 513_000
    maps = jax.eval_shape(partial(LightCNN().apply, train=False), variables, image)
    assert [x.shape for x in maps] == [
        (2, 24, 40, 256),
        (2, 12, 20, 512),
        (2, 6, 10, 512),
        (2, 24, 40, 256),
    ]
    maps = jax.eval_shape(
        partial(LightCNN().apply, train=False), variables, jnp.zeros((1, 90, 70, 1))
    )
    assert maps[-1].shape == (1, 23, 18, 256)


@pytest.mark.parametrize("name", NARROW)
def test_the_last_map_is_what_the_last_activation_leaves(name):
    model = NARROW[name]()
    image = random_image(2, 96, 64, 1, dtype=np.float32)
    apply = jax.jit(partial(model.apply, train=False))
    variables = random_variables(model, np.float32)
    maps = apply(variables, image)
    assert [x.shape[:3] for x in maps] == [(2, 24, 16), (2, 12, 8), (2, 6, 4), (2, 3, 2)]
    assert maps[-1].min() == 0 < maps[-1].max()
    np.testing.assert_allclose(apply(variables, image.repeat(3, -1))[-1], maps[-1], rtol=1e-6)


@pytest.mark.parametrize("name", NARROW)
def test_devices_together_compute_what_one_does(name, float64):
    image = random_image(4, 32, 32, 1)
    options = {"dtype": jnp.float64}
    variables = random_variables(NARROW[name](**options), np.float64)

    def per_device(image):
        model = NARROW[name](**options, axis_name=BATCH_AXIS)
        gradients, maps, updates = evaluate(model, variables, image)
        return jax.lax.psum(gradients, BATCH_AXIS), maps, updates

    spread = jax.shard_map(
        per_device,
        mesh=sharding.make_mesh(2),
        in_specs=P(BATCH_AXIS),
        out_specs=(P(), P(BATCH_AXIS), P()),
        check_vma=False,
    )
    together = jax.jit(spread)(image)
    alone = jax.jit(partial(evaluate, NARROW[name](**options)))(variables, image)
    for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        # Of a shift that the next normalisation takes away the gradient is rounding alone.
        assert np.abs(one - other).max() <= 1e-9 * max(1, np.abs(other).max())


@pytest.mark.parametrize("name", NARROW)
def test_bfloat16_keeps_float32_variables_and_moments(name):
    assert_bfloat16_keeps_float32(NARROW[name], 64)


@pytest.mark.parametrize("name", BACKBONES)
def test_heatmaps_have_a_sixteenth_of_the_size(name):
    model = DeepCTNet(backbone_name=name, head="gap")
    image = jnp.zeros((2, 64, 96, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert jax.eval_shape(partial(grad_cam, model=model), variables, image).shape == (2, 4, 6)


@pytest.mark.parametrize("name", NARROW)
def test_the_map_for_heatmaps_is_one_after_an_activation(name):
    model, image = NARROW[name](), random_image(1, 64, 64, 1, dtype=np.float32)
    variables = random_variables(model, np.float32)
    _, shown = jax.jit(partial(model.apply, train=False, mutable=["maps"]))(variables, image)
    (layer,) = jax.tree.leaves(shown)
    assert layer.shape[1:3] == (4, 4)
    assert layer.min() == 0 < layer.max()


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 7, 10, 3)])
def test_a_depthwise_convolution_is_xlas_grouped_one(size, stride, shape, float64):
    x, kernel = random_image(*shape), random_image(size, size, 1, 3)
    grouped = jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    )
    ours = convolve_depthwise(jnp.asarray(x), jnp.asarray(kernel), stride=stride)
    np.testing.assert_allclose(ours, grouped, rtol=1e-12)
