"""Exported programs, of Deep-CXR-Net above all, on the engines of their ONNX files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.models.deep_cxr_net import DeepCXRNet, FrozenPart
from jaxcovid.models.segmentation_net import SegmentationNet
from jaxcovid.weights.export.program import Program

NARROW = {"growth_rate": 8, "depths": (1, 1, 1, 1), "form": "plain"}
PARTS = (
    FrozenPart("part1", DeepCTNet(outputs=6, **NARROW)),
    FrozenPart("part2", DeepCTNet(outputs=2, exclusive=True, **NARROW)),
)


def make_program(**options):
    model = DeepCXRNet(parts=PARTS, outputs=3, **NARROW, **options)
    models = {"": model, **{part.name: part.model for part in PARTS}}
    variables = {
        name: jax.tree.map(np.asarray, dict(one.init(jax.random.key(i), jnp.zeros((1, 64, 64, 1)))))
        for i, (name, one) in enumerate(models.items())
    }
    own = {k: v for k, v in variables.pop("").items() if k in ("params", "batch_stats")}
    explained = (0, 1, 2) if model.has_gradcam else ()
    preprocessing = Preprocessing(size=64, keep_ratio=True)
    return Program(model, {**own, "frozen": variables}, preprocessing, 1.3, explained)


def film(shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", [(2, 90, 200), (1, 30, 40), (3, 64, 64), (1, 128, 100)])
def test_the_steps_inside_are_those_of_opencv(shape):
    program, pixels = make_program(), film(shape)
    made = jax.jit(program.from_pixels)(pixels)
    image = np.stack([program.preprocessing(one) for one in pixels])
    ours = jax.jit(program.from_input)(image)
    np.testing.assert_allclose(made["probability"], ours["probability"], atol=1e-4)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("options", [{"attention": "wide"}, {"part3": False}], ids=str)
def test_frozen_parts_and_a_heatmap_of_each_output(engine, options):
    program = make_program(**options)
    expected = {"probability", "heatmap"} if program.explained else {"probability"}
    assert_same_on(engine, program, expected)


LITE0 = {"backbone_name": "efficientnet_lite0", "grouped_depthwise": True}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("model", "outputs"),
    [
        (DeepCTNet(**LITE0), {"probability", "heatmap"}),
        (SegmentationNet(**NARROW), {"probability", "masks"}),
        (SegmentationNet(joint=True, **NARROW), {"probability", "heatmap", "masks"}),
    ],
    ids=["lite0", "segmentation", "joint"],
)
def test_other_networks(engine, model, outputs):
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    variables = {name: variables[name] for name in ("params", "batch_stats")}
    explained = (0,) if model.has_gradcam else ()
    assert_same_on(
        engine, Program(model, variables, Preprocessing(size=64), 1.0, explained), outputs
    )


def assert_same_on(engine, program, outputs):
    """An engine computes the outputs of a program from pixels."""
    library = pytest.importorskip(engine)
    pytest.importorskip("onnx")
    from jaxcovid.weights.jaxpr_to_onnx.convert import convert

    function, argument = program.entry("pixels")
    content = convert(function, "pixels", argument, metadata={}).SerializeToString()
    pixels = film((2, 90, 200))
    ours = jax.jit(function)(pixels)
    assert set(ours) == outputs
    if "masks" in outputs:
        assert ours["masks"].shape == (2, 2, 64, 64)
        image = np.stack([program.preprocessing(gray) for gray in pixels])
        logits = program.model.apply(program.variables, image, method="segment")
        expected = np.moveaxis(jax.nn.sigmoid(logits), -1, 1)
        np.testing.assert_allclose(ours["masks"], expected, atol=1e-4)
    for name, expected in ours.items():
        if engine == "onnxruntime":
            made = library.InferenceSession(content).run([name], {"pixels": pixels})[0]
        else:
            core, exact = library.Core(), {"INFERENCE_PRECISION_HINT": "f32"}
            made = core.compile_model(core.read_model(content, b""), "CPU", exact)(pixels)[name]
        np.testing.assert_allclose(made, expected, atol=1e-4)
