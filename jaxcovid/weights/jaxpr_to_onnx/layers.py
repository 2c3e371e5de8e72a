"""Convolutions, products, pooling and sums."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcovid.weights.jaxpr_to_onnx.graph import Graph, Shape, Tensor, element_type
from jaxcovid.weights.jaxpr_to_onnx.rule import Rule, result

_MAP = (0, 3, 1, 2)  # the axes of a map [b, h, w, c] as batch, channels, height and width


def _convolution(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    """A convolution of a map with a constant kernel; one of a dilated map is a transposed one."""
    (x, kernel), params = operands, equation.params
    numbers = params["dimension_numbers"]
    if numbers.lhs_spec != _MAP or numbers.out_spec != _MAP or kernel.array is None:
        raise NotImplementedError(f"a convolution with {numbers}")
    if params["batch_group_count"] != 1:
        raise NotImplementedError("a convolution with groups of the batch")
    weights = np.broadcast_to(kernel.array, kernel.shape).transpose(numbers.rhs_spec)
    groups, (low, high) = params["feature_group_count"], zip(*params["padding"], strict=True)
    if params["lhs_dilation"] == (1, 1):
        name = graph.add(
            "Conv",
            [graph.first(x), graph.constant(weights)],
            strides=params["window_strides"],
            pads=[*low, *high],
            dilations=params["rhs_dilation"],
            group=groups,
        )
        return result(equation, name, first=True)
    if (params["rhs_dilation"], params["window_strides"]) != ((1, 1), (1, 1)):
        raise NotImplementedError("a convolution of a dilated map with strides or holes")
    outputs, inputs, *sides = weights.shape  # the inputs are those of a group
    by_group = weights[:, :, ::-1, ::-1].reshape(groups, outputs // groups, inputs, *sides)
    flipped = by_group.swapaxes(1, 2).reshape(groups * inputs, outputs // groups, *sides)
    ends = [side - 1 - pad for side, pad in zip(sides, high, strict=True)]
    name = graph.add(
        "ConvTranspose",
        [graph.first(x), graph.constant(flipped)],
        group=groups,
        strides=params["lhs_dilation"],
        pads=[side - 1 - pad for side, pad in zip(sides, low, strict=True)]
        + [max(end, 0) for end in ends],
        output_padding=[max(-end, 0) for end in ends],
    )
    return result(equation, name, first=True)


def _product(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    """A sum of products over some axes; of the channels of a map it is a 1x1 convolution.

    Not as Einsum, in which OpenVINO 2026.4 forgets to transpose a square constant.
    """
    (summed, common), (a, b) = equation.params["dimension_numbers"], operands
    if any(common):
        raise NotImplementedError(f"a product with the axes {common} in common")
    if len(a.shape) == 4 and summed[0] == (3,) and len(b.shape) == 2 and b.array is not None:
        kernel = np.broadcast_to(b.array, b.shape)
        kernel = kernel if summed[1] == (1,) else kernel.T
        names = [graph.first(a), graph.constant(kernel[:, :, None, None])]
        return result(equation, graph.add("Conv", names), first=True)
    # The second of a matrix product becomes a matrix, for which its sides must be numbers.
    turned = not all(isinstance(b.shape[axis], int) for axis in _others(b, summed[1]))
    many, few = ((b, summed[1]), (a, summed[0])) if turned else ((a, summed[0]), (b, summed[1]))
    name = graph.add("MatMul", [_stacked(graph, *many), _matrix(graph, *few)])
    sides = [x.shape[axis] for x, axes in (many, few) for axis in _others(x, axes)]
    name = graph.reshape(name, tuple(sides))
    if turned:
        count = len(_others(*many))
        order = [*range(count, len(sides)), *range(count)]
        name = graph.add("Transpose", [name], perm=order)
    return result(equation, name)


def _others(x: Tensor, axes: Sequence[int]) -> list[int]:
    return [axis for axis in range(len(x.shape)) if axis not in axes]


def _stacked(graph: Graph, x: Tensor, axes: Sequence[int]) -> str:
    """A tensor [others..., product of some axes]."""
    others = _others(x, axes)
    count = math.prod(x.shape[axis] for axis in axes) if len(axes) != 1 else x.shape[axes[0]]
    shape = (*(x.shape[axis] for axis in others), count)
    return _turned(graph, x, [*others, *axes], shape)


def _matrix(graph: Graph, x: Tensor, axes: Sequence[int]) -> str:
    """A tensor as a matrix [product of some axes, product of the others]."""
    others = _others(x, axes)
    sides = [[x.shape[axis] for axis in group] for group in (axes, others)]
    shape = tuple(side[0] if len(side) == 1 else math.prod(side) for side in sides)
    return _turned(graph, x, [*axes, *others], shape)


def _turned(graph: Graph, x: Tensor, order: Sequence[int], shape: Shape) -> str:
    """A tensor with its axes in another order, then in another shape."""
    if x.array is not None:  # OpenVINO 2026.4 forgets to transpose a square constant
        return graph.constant(np.broadcast_to(x.array, x.shape).transpose(order).reshape(shape))
    name = graph.add("Transpose", [graph.last(x, full=True)], perm=order)
    return name if len(shape) == len(order) else graph.reshape(name, shape)


def _pool(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    """The maximum or the sum of each window of a map."""
    (x, *_), params = operands, equation.params
    window, strides = params["window_dimensions"], params["window_strides"]
    plain = (1,) * 4
    if len(window) != 4 or (params["base_dilation"], params["window_dilation"]) != (plain, plain):
        raise NotImplementedError("pooling with dilations or of something else than a map")
    low, high = zip(*params["padding"], strict=True)
    shape = {"kernel_shape": window[1:3], "strides": strides[1:3], "pads": [*low[1:3], *high[1:3]]}
    if equation.primitive.name == "reduce_window_max":
        return result(equation, graph.add("MaxPool", [graph.first(x)], **shape), first=True)
    mean = graph.add("AveragePool", [graph.first(x)], count_include_pad=1, **shape)
    count = graph.constant(math.prod(window), np.float32)
    return result(equation, graph.add("Mul", [mean, count]), first=True)


def _reduce(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    """A sum, a maximum, a minimum, or whether all are true, over some axes."""
    (x, *_), axes = operands, equation.params["axes"]
    operator = {"sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin", "and": "ReduceMin"}
    kind = operator[equation.primitive.name.removeprefix("reduce_")]
    logical = kind == "ReduceMin" and x.dtype.kind == "b"
    source = graph.last(x, full=True)
    if x.channels_first and tuple(axes) == (1, 2) and x.actual == x.shape:
        source, axes = graph.first(x), (2, 3)
    if logical:
        source = graph.add("Cast", [source], to=element_type(np.int32))
    name = graph.add(kind, [source, graph.constant(axes, np.int64)], keepdims=0)
    if logical:
        name = graph.add("Cast", [name], to=element_type(bool))
    return result(equation, name)


def _cumulative_sum(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    axis = graph.constant(equation.params["axis"], np.int64)
    source, reverse = graph.last(operands[0], full=True), int(equation.params["reverse"])
    return result(equation, graph.add("CumSum", [source, axis], reverse=reverse))


RULES: dict[str, Rule] = {
    "conv_general_dilated": _convolution,
    "cumsum": _cumulative_sum,
    "dot_general": _product,
    "reduce_and": _reduce,
    "reduce_max": _reduce,
    "reduce_min": _reduce,
    "reduce_sum": _reduce,
    "reduce_window_max": _pool,
    "reduce_window_sum": _pool,
}
