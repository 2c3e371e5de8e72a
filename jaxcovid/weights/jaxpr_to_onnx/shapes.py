"""Operations that move numbers and change none."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.lax import GatherScatterMode

from jaxcovid.weights.jaxpr_to_onnx.graph import Graph, Tensor, constant, element_type
from jaxcovid.weights.jaxpr_to_onnx.rule import AXES_FIRST, Rule, result


def _identity(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> list[Tensor]:
    return list(operands)


def _dimension(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    aval = equation.outvars[0].aval
    name = graph.add("Squeeze", [graph.dimension(equation.params["dim"])])
    return result(equation, graph.add("Cast", [name], to=element_type(aval.dtype)))


def _iota(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    (dimension,) = equation.outvars[0].aval.shape  # others are constants
    zero, one = (graph.constant(x, np.int64) for x in (0, 1))
    numbers = graph.add("Range", [zero, graph.add("Squeeze", [graph.dimension(dimension)]), one])
    kind = element_type(equation.outvars[0].aval.dtype)
    return result(equation, graph.add("Cast", [numbers], to=kind))


def _broadcast_in_dim(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    """Puts the axes in their places; what grows is left to who reads the result."""
    (x, *_), aval = operands, equation.outvars[0].aval
    places = equation.params["broadcast_dimensions"]
    actual = [1] * len(aval.shape)
    for axis, place in enumerate(places):
        actual[place] = x.actual[axis]
    if x.array is not None:
        return constant(x.array.reshape(actual), aval.shape)
    if x.channels_first and places == (0, 1, 2, 3):
        return result(equation, graph.first(x), first=True, actual=tuple(actual))
    new = [axis for axis in range(len(aval.shape)) if axis not in places]
    name = graph.last(x)
    if new:
        name = graph.add("Unsqueeze", [name, graph.constant(new, np.int64)])
    return result(equation, name, actual=tuple(actual))


def _reshape(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    shape = equation.outvars[0].aval.shape
    return result(equation, graph.reshape(graph.last(operands[0], full=True), shape))


def _transpose(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    permutation = equation.params["permutation"]
    name = graph.add("Transpose", [graph.last(operands[0], full=True)], perm=permutation)
    return result(equation, name)


def _concatenate(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    axis = equation.params["dimension"]
    if any(x.channels_first for x in operands) and all(x.actual == x.shape for x in operands):
        names = [graph.first(x) for x in operands]
        name = graph.add("Concat", names, axis=AXES_FIRST[axis])
        return result(equation, name, first=True)
    names = [graph.last(x, full=True) for x in operands]
    return result(equation, graph.add("Concat", names, axis=axis))


def _stack(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    axis = equation.params["axis"]
    place = graph.constant([axis], np.int64)
    names = [graph.add("Unsqueeze", [graph.last(x, full=True), place]) for x in operands]
    return result(equation, graph.add("Concat", names, axis=axis))


def _split(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> list[Tensor]:
    (x,), axis = operands, equation.params["axis"]
    first = x.channels_first and x.actual == x.shape
    source = graph.first(x) if first else graph.last(x, full=True)
    sizes = graph.constant(equation.params["sizes"], np.int64)
    place = AXES_FIRST[axis] if first else axis
    names = graph.add_several("Split", [source, sizes], len(equation.outvars), axis=place)
    avals = [variable.aval for variable in equation.outvars]
    return [
        Tensor(aval.shape, aval.dtype, aval.shape, names={first: name})
        for aval, name in zip(avals, names, strict=True)
    ]


def _slice(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    (x,), params = operands, equation.params
    steps = params["strides"] or [1] * len(x.shape)
    bounds = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    return _cut(graph, equation, x, list(bounds))


def _cut(graph: Graph, equation: Any, x: Tensor, bounds: Sequence[Any]) -> Tensor:
    """The part of a tensor between (start, limit, step) of each axis."""
    axes = [
        axis
        for axis, (bound, side) in enumerate(zip(bounds, x.shape, strict=True))
        if bound != (0, side, 1)
    ]
    if not axes:
        return x
    chosen = np.array([bounds[axis] for axis in axes], np.int64).T  # none of them symbolic
    constants = [graph.constant(numbers, np.int64) for numbers in (*chosen[:2], axes, chosen[2])]
    return result(equation, graph.add("Slice", [graph.last(x, full=True), *constants]))


def _reverse(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    axes = equation.params["dimensions"]
    last, before, step = ([n] * len(axes) for n in (-1, np.iinfo(np.int64).min, -1))
    constants = [graph.constant(numbers, np.int64) for numbers in (last, before, axes, step)]
    return result(equation, graph.add("Slice", [graph.last(operands[0], full=True), *constants]))


def _pad(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    """Numbers around a tensor and between its rows and columns."""
    x, value = operands
    before, after, between = zip(*equation.params["padding_config"], strict=True)
    first = len(x.shape) == 4 and x.channels_first
    name = graph.first(x) if first else graph.last(x, full=True)
    if any(between):
        if value.array is None or value.array != 0 or any((between[0], between[3])):
            raise NotImplementedError("numbers other than 0 between those of a map")
        channels = x.shape[3]  # a transposed convolution of one pixel moves pixels apart
        ones = graph.constant(np.ones((channels, 1, 1, 1), x.dtype))
        strides = [gap + 1 for gap in between[1:3]]
        name = graph.add("ConvTranspose", [graph.first(x), ones], group=channels, strides=strides)
        first = True
    order = [AXES_FIRST.index(axis) for axis in range(4)] if first else range(len(x.shape))
    widths = [int(side[axis]) for side in (before, after) for axis in order]
    if any(widths):
        padding = graph.constant(widths, np.int64)
        name = graph.add("Pad", [name, padding, graph.last(value)])
    return result(equation, name, first=first)


def _gather(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    """Four of the forms of a gather, of which JAX has many: slices and two kinds of look-up."""
    (x, indices), params = operands, equation.params
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    if not numbers.collapsed_slice_dims and not numbers.operand_batching_dims:
        if indices.array is None:
            raise NotImplementedError("a slice whose place is computed")
        starts = dict(zip(numbers.start_index_map, np.ravel(indices.array), strict=True))
        bounds = [(0, side, 1) for side in x.shape]
        for axis, start in starts.items():
            bounds[axis] = (int(start), int(start) + sizes[axis], 1)
        return _cut(graph, equation, x, bounds)
    if len(numbers.collapsed_slice_dims) == 2:
        return _gather_grid(graph, equation, x, indices)
    (axis,) = numbers.collapsed_slice_dims
    if numbers.start_index_map != (axis,):
        raise NotImplementedError(f"a gather with {numbers}")
    places = _places(graph, indices, params["mode"], x.shape[axis])
    source = graph.last(x, full=True)
    if (numbers.operand_batching_dims, axis, len(x.shape)) == ((0,), 1, 2):
        return result(equation, graph.add("GatherElements", [source, places], axis=1))
    others = tuple(i for i in range(len(equation.outvars[0].aval.shape)) if i != axis)
    if numbers.operand_batching_dims or tuple(numbers.offset_dims) != others:
        raise NotImplementedError(f"a gather with {numbers}")
    return result(equation, graph.add("Gather", [source, places], axis=int(axis)))


def _gather_grid(graph: Graph, equation: Any, x: Tensor, indices: Tensor) -> Tensor:
    """Some rows and some columns of a map, as a slice with steps takes them."""
    numbers = equation.params["dimension_numbers"]
    if indices.array is None or (*numbers.collapsed_slice_dims, *numbers.offset_dims) != (
        1,
        2,
        0,
        3,
    ):
        raise NotImplementedError(f"a gather with {numbers}")
    rows, columns = indices.array[:, 0, 0], indices.array[0, :, 1]
    if (indices.array != np.stack(np.meshgrid(rows, columns, indexing="ij"), -1)).any():
        raise NotImplementedError("a gather of pixels that are no rows and columns")
    name = graph.add("Gather", [graph.first(x), graph.constant(rows)], axis=2)
    name = graph.add("Gather", [name, graph.constant(columns)], axis=3)
    return result(equation, name, first=True)


def _places(graph: Graph, indices: Tensor, mode: Any, side: int) -> str:
    """Indices [..., 1] without their last axis, inside the side that they are of."""
    name = graph.last(indices, full=True)
    name = graph.add("Squeeze", [name, graph.constant([-1], np.int64)])
    if mode == GatherScatterMode.CLIP:
        limits = [graph.constant(limit, indices.dtype) for limit in (0, side - 1)]
        name = graph.add("Clip", [name, *limits])
    return name


def _scatter_add(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    """Sums [b, n] of numbers [b, m] by their place in each row: a histogram."""
    x, indices, updates = operands
    numbers, mode = equation.params["dimension_numbers"], equation.params["mode"]
    if (numbers.operand_batching_dims, tuple(numbers.inserted_window_dims)) != ((0,), (1,)):
        raise NotImplementedError(f"a scatter with {numbers}")
    names = [
        graph.last(x, full=True),
        _places(graph, indices, mode, x.shape[1]),
        graph.last(updates, full=True),
    ]
    return result(equation, graph.add("ScatterElements", names, axis=1, reduction="add"))


RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "copy": _identity,
    "dim_as_value": _dimension,
    "expand_dims": _reshape,
    "gather": _gather,
    "iota": _iota,
    "optimization_barrier": _identity,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _reverse,
    "scatter-add": _scatter_add,
    "slice": _slice,
    "split": _split,
    "squeeze": _reshape,
    "stack": _stack,
    "stop_gradient": _identity,
    "transpose": _transpose,
}
