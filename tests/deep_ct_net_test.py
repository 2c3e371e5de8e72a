import importlib.util
import pathlib
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from torch_weights import load_seeded, seeded_variables

from jaxcovid.benchmarks import linen_reference
from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.models.densenet import DenseNet
from jaxcovid.training import step

GOLDEN = pathlib.Path(__file__).parent / "golden" / "deep_ct_net_64.npz"


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


def stages(variables, image):
    model = DeepCTNet()
    features = model.apply(variables, image, method="features")
    attended = model.apply(variables, features, method="attend")
    return features, attended, model.apply(variables, image)


@pytest.fixture(scope="module")
def ours():
    image = np.random.default_rng(7).normal(size=(2, 3, 64, 64)).astype(np.float32)
    return stages(seeded_variables(64), jnp.asarray(image.transpose(0, 2, 3, 1)))


def test_parity_with_the_pytorch_reference(ours):
    """Golden outputs of `python tests/torch_weights.py FILE`.

    Write them anew only when the reference itself changes, never to make this pass.
    """
    golden = np.load(GOLDEN)
    assert_close(ours[0], golden["features"].transpose(0, 2, 3, 1))
    assert_close(ours[1], golden["attention"].transpose(0, 2, 3, 1))
    assert_close(ours[2], golden["logits"])


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_live_parity_with_pytorch():
    import torch

    from jaxcovid.benchmarks import torch_reference

    net = torch_reference.DeepCTNet(256).eval()
    load_seeded(net)
    image = np.random.default_rng(1).normal(size=(1, 3, 256, 256)).astype(np.float32)
    with torch.no_grad():
        features = net.backbone(torch.from_numpy(image))
        expected = features, net.attention(features), net(torch.from_numpy(image))
    found = stages(seeded_variables(256), jnp.asarray(image.transpose(0, 2, 3, 1)))
    assert_close(found[0], expected[0].numpy().transpose(0, 2, 3, 1))
    assert_close(found[1], expected[1].numpy().transpose(0, 2, 3, 1))
    assert_close(found[2], expected[2].numpy())


def test_features_equal_keras_densenet121(monkeypatch):
    """Keras' own DenseNet-121 with its random weights, live."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    reference = keras.applications.DenseNet121(
        weights=None, include_top=False, input_shape=(64, 64, 3)
    )
    assert reference.count_params() == 7_037_504
    names = {"stem_conv": "conv1_conv", "stem_norm": "conv1_bn", "final_norm": "bn"}
    variables = jax.tree.map(
        np.array, dict(DenseNet().init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False))
    )
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
    found = DenseNet().apply(jax.tree.map(jnp.float32, variables), image, train=False)
    assert_close(found, np.asarray(reference(image, training=False)))


def as_linen(tree):
    """Our parameters or moments in the tree of `linen_reference`, which numbers its modules."""
    net, attention = tree["backbone"], tree["pyramid_attention"]
    convs, norms = [net.get("stem_conv")], [net["stem_norm"]]
    for i, depth in enumerate((6, 12, 24, 16), start=1):
        for layer in (net[f"block{i}"][f"layer{j + 1}"] for j in range(depth)):
            convs += [layer.get("conv1"), layer.get("conv2")]
            norms += [layer["norm1"], layer["norm2"]]
        if i < 4:
            convs.append(net[f"transition{i}"].get("conv"))
            norms.append(net[f"transition{i}"]["norm"])
    norms += [net["final_norm"], tree["norm"]]
    names = ("gap", "mid", "down1", "down2", "down3", "lateral1", "lateral2", "lateral3")
    found = {
        **{f"BatchNorm_{i}": norm for i, norm in enumerate(norms)},
        **{f"ConvNormRelu_{i}": attention[name] for i, name in enumerate(names)},
    }
    if "classifier" in tree:  # moments have neither kernels nor this
        found |= {f"Conv_{i}": conv for i, conv in enumerate(convs)}
        found["Dense_0"] = tree["classifier"]
    return found


def test_loss_gradients_and_moments_are_those_of_plain_linen():
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(4, 64, 64, 1)).astype(np.float32),
        "target": np.array([[0], [1], [1], [0]], np.float32),
    }
    variables = seeded_variables(64)
    found, moments, numbers = jax.jit(
        lambda variables: step.gradients(
            variables, batch, model=DeepCTNet(), weights=jnp.ones((2, 1))
        )
    )(variables)
    plain = {name: as_linen(tree) for name, tree in variables.items()}
    descent = optax.sgd(1.0)  # so that the next parameters tell the gradients
    after, _, loss = jax.jit(
        partial(linen_reference.train_step, model=linen_reference.DeepCTNet(), optimizer=descent)
    )(plain, descent.init(plain["params"]), batch)
    expected = jax.tree.map(np.subtract, plain["params"], dict(after["params"]))
    np.testing.assert_allclose(numbers["loss"], loss, rtol=1e-4)
    found = as_linen(found)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    own, other = ravel_pytree(found)[0], ravel_pytree(expected)[0]
    # Rounding opens a few ReLUs on one side only; a wrong term moves every number.
    assert np.linalg.norm(own - other) < 1e-2 * np.linalg.norm(other)
    assert_close(
        ravel_pytree(as_linen(moments))[0], ravel_pytree(dict(after["batch_stats"]))[0], 1e-4
    )


NARROW = {"growth_rate": 8, "depths": (2, 2, 2, 2)}


def test_one_channel_stands_for_three_equal_ones():
    model = DeepCTNet(**NARROW)
    gray = jax.random.normal(jax.random.key(1), (2, 64, 64, 1))
    variables = model.init(jax.random.key(0), gray)
    assert_close(
        model.apply(variables, gray), model.apply(variables, jnp.repeat(gray, 3, -1)), 1e-5
    )


def test_shared_moments_are_those_of_flax_batch_norm():
    from jaxcovid.models.normalization import BatchNorm

    x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 5, 5, 7))
    ours, reference = BatchNorm(), nn.BatchNorm(use_running_average=False, momentum=0.9)
    variables = ours.init(jax.random.key(0), x, train=False)
    y, updates = ours.apply(variables, x, train=True, mutable=["batch_stats"])
    expected, expected_updates = reference.apply(
        reference.init(jax.random.key(0), x), x, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(y, expected, atol=1e-5)
    for key in ("mean", "var"):
        np.testing.assert_allclose(
            updates["batch_stats"][key], expected_updates["batch_stats"][key], rtol=1e-5
        )


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
    variables = model.init(jax.random.key(0), jnp.ones((1, 64, 64, 1)))
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    for size in (32, 96, 200):
        assert model.apply(variables, jnp.ones((1, size, size, 1))).shape == (1, 1)


def test_initialisation_is_untruncated_he_normal_and_a_small_head():
    params = DeepCTNet().init(jax.random.key(0), jnp.zeros((1, 64, 64, 1)))["params"]
    kernel = np.asarray(params["backbone"]["block3"]["layer20"]["conv1"]["kernel"])
    assert np.isclose(kernel.std(), np.sqrt(2 / kernel.shape[2]), rtol=0.02)
    assert np.abs(kernel).max() > 3 * kernel.std()
    assert np.isclose(np.asarray(params["classifier"]["kernel"]).std(), 0.01, rtol=0.05)
    assert not np.asarray(params["classifier"]["bias"]).any()


@pytest.mark.parametrize("options", [{"attention": "big"}, {"head": "max"}, {"dtype": "float16"}])
def test_unknown_options_name_the_allowed_ones(options):
    with pytest.raises(ValueError, match="use one of"):
        DeepCTNet(**options)
