"""JAX's operations written in ONNX, against JAX itself."""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

pytest.importorskip("onnx")

from jaxcovid.data import device_steps
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.weights.jaxpr_to_onnx.convert import convert

ENGINES = ("onnxruntime", "openvino")
KERNEL = np.random.default_rng(1).normal(size=(3, 3, 4, 6)).astype(np.float32)
DEPTHWISE = np.random.default_rng(2).normal(size=(5, 5, 1, 4)).astype(np.float32)
SQUARE = np.random.default_rng(4).normal(size=(6, 6)).astype(np.float32)
ROWS = np.random.default_rng(5).normal(size=(5, 8)).astype(np.float32)
SCALE = np.random.default_rng(3).normal(size=4).astype(np.float32)


def run_onnx(function, x, shape, engine="onnxruntime"):
    """What an engine makes of a function whose input has a symbolic shape."""
    argument = jax.ShapeDtypeStruct(export.symbolic_shape(shape), x.dtype)
    model = convert(lambda x: {"y": function(x)}, "x", argument, metadata={})
    content = model.SerializeToString()
    if engine == "onnxruntime":
        onnxruntime = pytest.importorskip("onnxruntime")
        return onnxruntime.InferenceSession(content).run(["y"], {"x": x})[0], model
    core = pytest.importorskip("openvino").Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(core.read_model(content, b""), "CPU", exact)(x)["y"], model


def convolve(x, kernel, stride=1, padding=1, groups=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def window_mean(x):
    sums = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return sums / 4


def window_max(x):
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


def gradient(function):
    return lambda x: jax.vjp(function, x)[1](function(x))[0]


MAPS = {
    "convolution": lambda x: convolve(x, KERNEL),
    "strided convolution": lambda x: convolve(x, KERNEL, stride=2),
    "depthwise convolution": lambda x: convolve(x, DEPTHWISE, 2, 2, groups=4),
    "gradient of a convolution": gradient(lambda x: convolve(x, KERNEL)),
    "gradient of a strided convolution": gradient(lambda x: convolve(x, KERNEL, stride=2)),
    "gradient of a depthwise one": gradient(lambda x: convolve(x, DEPTHWISE, 2, 2, groups=4)),
    "gradient of a mean of windows": gradient(window_mean),
    "mean of windows": window_mean,
    "maximum of windows": window_max,
    "normalisation": lambda x: (x - SCALE[None, None, None]) * SCALE[None, None, None] + 0.5,
    "difference from a constant": lambda x: SCALE[None, None, None] - x,
    "per channel and per image": lambda x: x * x.mean((1, 2), keepdims=True) + x.max(),
    "concatenation": lambda x: jnp.concatenate([jax.nn.relu(x), x * 2, convolve(x, KERNEL)], -1),
    "product with the channels": lambda x: convolve(x, KERNEL) @ SQUARE,
    "gradient of that product": gradient(lambda x: x @ SQUARE[:4, :4]),
    "gradient of a square matrix": gradient(lambda x: x.mean((1, 2)) @ SQUARE[:4, :4]),
    "product with the rows": lambda x: jnp.einsum("ih,bhwc->biwc", ROWS, x),
    "resize": lambda x: jax.image.resize(x, (x.shape[0], 16, 12, 4), "bilinear"),
    "resize of one pixel": lambda x: jax.image.resize(
        x.max((1, 2), keepdims=True), (x.shape[0], 2, 3, 4), "bilinear"
    ),
    "flattened after a convolution": lambda x: convolve(x, KERNEL).reshape(x.shape[0], -1),
    "flipped": lambda x: jnp.flip(x, (1, 3)),
    "every second row and column": lambda x: x[:, 1::2, ::2],
    "look-up": lambda x: x[:, jnp.array([3, 0, 0])],
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MAPS)
def test_maps(name, engine):
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 4)).astype(np.float32)
    ours, _ = run_onnx(MAPS[name], x, "b, 8, 8, 4", engine)
    np.testing.assert_allclose(ours, MAPS[name](x), rtol=1e-5, atol=2e-5)


WHOLE = {
    "floor division": lambda x: (x - 7) // 3,
    "remainder": lambda x: jax.lax.rem(x - 7, 3),
    "shift": lambda x: (x - 100) >> 3,
    "sums": lambda x: jnp.cumsum(x, axis=1),
    "choice": lambda x: jnp.where((x > 3) & (x != 5), x, -x),
    "histogram": jax.vmap(lambda row: jnp.zeros(16, jnp.int32).at[row].add(1)),
    "look-up of each row": lambda x: jnp.take_along_axis(x * x, x % 8, axis=1),
    "size of the input": lambda x: x + jnp.arange(x.shape[1])[None] * x.shape[0],
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers(name, engine):
    x = np.random.default_rng(0).integers(0, 16, (5, 9), np.int32)
    ours, _ = run_onnx(WHOLE[name], x, "b, n", engine)
    np.testing.assert_array_equal(ours, WHOLE[name](x))


def test_a_half_is_rounded_to_even():
    x = np.array([[-1.5, -0.5, 0.5, 1.5, 2.5]], np.float32)
    np.testing.assert_array_equal(run_onnx(jnp.round, x, "b, 5")[0], [[-2, 0, 0, 2, 2]])


def test_a_map_is_turned_only_at_its_ends_and_a_normalisation_is_one_node():

    def chain(x):
        for _ in range(4):
            y = jax.nn.relu((x - 0.5) * SCALE[None, None, None] + 0.25)
            x = convolve(y, KERNEL[..., :4])
        return x

    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    ours, model = run_onnx(chain, x, "b, 8, 8, 4")
    np.testing.assert_allclose(ours, chain(x), rtol=1e-4, atol=0.1)
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Transpose") == 2
    assert operators.count("BatchNormalization") == operators.count("Conv") == 4
    assert not {"Sub", "Mul", "Add"} & set(operators)


def test_what_no_output_needs_is_left_out():
    x = np.ones((1, 8, 8, 4), np.float32)
    _, model = run_onnx(lambda x: (convolve(x, KERNEL), x + 1)[1], x, "b, 8, 8, 4")
    assert not any(node.op_type == "Conv" for node in model.graph.node)
    assert all(np.prod(tensor.dims) < KERNEL.size for tensor in model.graph.initializer)


def test_an_operation_without_a_rule_is_named():
    x = np.ones((2, 3), np.float32)
    with pytest.raises(NotImplementedError, match="erf_inv"):
        run_onnx(jax.lax.erf_inv, x, "b, 3")


@pytest.mark.parametrize("engine", ENGINES)
def test_preprocessing_equals_opencvs_bit_for_bit(engine):
    """Halved width and another height: half of the sums end at a half."""
    five = Preprocessing(size=256, mean=0.0, std=1.0)

    rng = np.random.default_rng(0)
    for shape in ((373, 512), (347, 512), (310, 406), (90, 300)):
        gray = cv2.blur(rng.integers(0, 256, shape, np.uint8), (9, 9))
        steps = functools.partial(device_steps.equalize_to_blur, preprocessing=five)
        theirs, _ = run_onnx(steps, gray[None], "b, h, w", engine)
        np.testing.assert_array_equal(theirs[0], five(gray)[..., 0], err_msg=str(shape))
