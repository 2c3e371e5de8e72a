import importlib.util
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from torch_weights import load_seeded, seeded_variables

from jaxcovid.models.deep_ct_net import FORMS, DeepCTNet
from jaxcovid.models.densenet import DenseNet
from jaxcovid.training import step

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "deep_ct_net_64.npz"


def parameters(variables):
    return sum(x.size for x in jax.tree.leaves(variables["params"]))


def shapes(model, size=256):
    image = jnp.zeros((1, size, size, 1))
    return jax.eval_shape(model.init, jax.random.key(0), image)


def assert_close(ours, reference, tolerance=1e-4):
    """Relative to the largest reference value, as parity is stated."""
    error = np.abs(ours - reference).max() / np.abs(reference).max()
    assert error < tolerance, f"relative error {error:.2e}"


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 9_175_048), ({"outputs": 3}, 9_306_122), ({"attention": "none"}, 7_021_441)],
)
def test_parameter_counts_are_those_of_the_paper_reading(options, expected):
    assert parameters(shapes(DeepCTNet(**options))) == expected


def test_parts_have_their_known_sizes():
    params = shapes(DeepCTNet())["params"]
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))  # noqa: E731
    assert count(params["backbone"]) == 6_953_856
    assert count(params["pyramid_attention"]) == 2_153_607


def stages(variables, image, form="fused"):
    model = DeepCTNet(form=form)

    def run(method, x):
        return jax.jit(partial(model.apply, method=method))(variables, x)

    features = run("features", image)
    return features, run("attend", features), run("__call__", image)


@pytest.mark.parametrize("form", FORMS)
def test_parity_with_the_pytorch_reference(form):
    """Golden outputs of `python tests/torch_weights.py FILE`.

    Write them anew only when the reference itself changes, never to make this pass.
    """
    image = np.random.default_rng(7).normal(size=(2, 3, 64, 64)).astype(np.float32)
    ours = stages(seeded_variables(64), jnp.asarray(image.transpose(0, 2, 3, 1)), form)
    golden = np.load(GOLDEN)
    assert_close(ours[0], golden["features"].transpose(0, 2, 3, 1))
    assert_close(ours[1], golden["attention"].transpose(0, 2, 3, 1))
    assert_close(ours[2], golden["logits"])


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_live_parity_with_pytorch():
    import torch

    from jaxcovid.benchmarks.contestants import torch_network

    net = torch_network.DeepCTNet(256).eval()
    load_seeded(net)
    image = np.random.default_rng(1).normal(size=(1, 3, 256, 256)).astype(np.float32)
    with torch.no_grad():
        features = net.backbone(torch.from_numpy(image))
        expected = features, net.attention(features), net(torch.from_numpy(image))
    found = stages(seeded_variables(256), jnp.asarray(image.transpose(0, 2, 3, 1)))
    assert_close(found[0], expected[0].numpy().transpose(0, 2, 3, 1))
    assert_close(found[1], expected[1].numpy().transpose(0, 2, 3, 1))
    assert_close(found[2], expected[2].numpy())


@pytest.mark.long
def test_features_equal_keras_densenet121(monkeypatch):
    """Keras' own DenseNet-121 with its random weights, live."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    reference = keras.applications.DenseNet121(
        weights=None, include_top=False, input_shape=(64, 64, 3)
    )
    assert reference.count_params() == 7_037_504
    names = {"stem_conv": "conv1_conv", "stem_norm": "conv1_bn", "final_norm": "bn"}
    init = jax.jit(partial(DenseNet().init, train=False))
    variables = jax.tree.map(np.array, dict(init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))))
    rng = np.random.default_rng(3)

    def keras_name(path):
        if path[0] in names:
            return names[path[0]]
        if path[0].startswith("transition"):
            return f"pool{int(path[0][-1]) + 1}_" + {"norm": "bn", "conv": "conv"}[path[1]]
        layer = f"conv{int(path[0][-1]) + 1}_block{path[1].removeprefix('layer')}_"
        parts = {"norm1": "0_bn", "conv1": "1_conv", "norm2": "1_bn", "conv2": "2_conv"}
        return layer + parts[path[2]]

    flat = jax.tree_util.tree_leaves_with_path(variables["params"])
    paths = {tuple(k.key for k in path[:-1]) for path, _ in flat}
    get = lambda tree, path: tree if not path else get(tree[path[0]], path[1:])  # noqa: E731
    for path in paths:
        layer = reference.get_layer(keras_name(path))
        params = get(variables["params"], path)
        if "kernel" in params:
            params["kernel"] = np.asarray(layer.get_weights()[0])
            continue
        stats = get(variables["batch_stats"], path)
        channels = params["scale"].shape
        params["scale"], params["bias"] = rng.uniform(0.8, 1.2, channels), rng.normal(size=channels)
        stats["mean"], stats["var"] = rng.normal(size=channels), rng.uniform(0.5, 1.5, channels)
        layer.set_weights([params["scale"], params["bias"], stats["mean"], stats["var"]])
    image = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    expected = np.asarray(reference(image, training=False))
    variables = jax.tree.map(jnp.float32, variables)
    assert_close(jax.jit(partial(DenseNet().apply, train=False))(variables, image)[-1], expected)


NARROW = {"growth_rate": 8, "depths": (2, 2, 2, 2)}


def test_a_train_step_is_the_same_with_both_forms_of_the_backbone():
    """Loss, gradients and moments; `densenet_test` compares the backbone alone, in float64."""
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(4, 64, 64, 1)).astype(np.float32),
        "target": np.array([[0], [1], [1], [0]], np.float32),
    }
    models = [DeepCTNet(form=form, **NARROW) for form in FORMS]
    variables = jax.jit(models[0].init)(jax.random.key(0), batch["image"])
    plain, fused = (
        jax.jit(partial(step.gradients, batch=batch, model=model, weights=jnp.ones((2, 1))))(
            variables
        )
        for model in models
    )
    np.testing.assert_allclose(fused[2]["loss"], plain[2]["loss"], rtol=1e-4)
    for one, other in zip(fused[:2], plain[:2], strict=True):
        assert jax.tree.structure(one) == jax.tree.structure(other)
        one, other = ravel_pytree(one)[0], ravel_pytree(other)[0]
        # Rounding opens a few ReLUs on one side only; a wrong term moves every number.
        assert np.linalg.norm(one - other) < 1e-2 * np.linalg.norm(other)


@pytest.mark.parametrize("form", FORMS)
def test_one_channel_stands_for_three_equal_ones(form):
    model = DeepCTNet(form=form, **NARROW)
    gray = jax.random.normal(jax.random.key(1), (2, 64, 64, 1))
    variables = jax.jit(model.init)(jax.random.key(0), gray)
    apply = jax.jit(model.apply)
    assert_close(apply(variables, gray), apply(variables, jnp.repeat(gray, 3, -1)), 1e-5)


@pytest.mark.parametrize("attention", ["compact", "wide", "none"])
@pytest.mark.parametrize("head", ["flatten", "gap"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_every_option_gives_logits(attention, head, outputs):
    model = DeepCTNet(attention=attention, head=head, outputs=outputs, **NARROW)
    image = jnp.ones((2, 96, 160, 1))
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    assert logits.shape == (2, outputs)
    assert logits.dtype == jnp.float32
    assert ("pyramid_attention" in variables["params"]) == (attention != "none")


def test_gap_head_takes_any_size_and_bfloat16_keeps_float32_parameters():
    model = DeepCTNet(head="gap", dtype="bfloat16", **NARROW)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 64, 64, 1)))
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    for size in (32, 96, 200):
        assert jax.eval_shape(model.apply, variables, jnp.ones((1, size, size, 1))).shape == (1, 1)


def test_initialisation_is_untruncated_he_normal_and_a_small_head():
    # Compiled, nothing but the parameters is computed.
    init = jax.jit(DeepCTNet(depths=(2, 2, 2, 2)).init)
    params = init(jax.random.key(0), jnp.zeros((1, 128, 128, 1)))["params"]
    kernel = np.asarray(params["backbone"]["block3"]["layer2"]["conv2"]["kernel"])
    assert np.isclose(kernel.std(), np.sqrt(2 / np.prod(kernel.shape[:3])), rtol=0.02)
    assert np.abs(kernel).max() > 3 * kernel.std()
    assert np.isclose(np.asarray(params["classifier"]["kernel"]).std(), 0.01, rtol=0.05)
    assert not np.asarray(params["classifier"]["bias"]).any()


@pytest.mark.parametrize(
    "options", [{"attention": "big"}, {"head": "max"}, {"dtype": "float16"}, {"form": "fast"}]
)
def test_unknown_options_name_the_allowed_ones(options):
    with pytest.raises(ValueError, match="use one of"):
        DeepCTNet(**options)
