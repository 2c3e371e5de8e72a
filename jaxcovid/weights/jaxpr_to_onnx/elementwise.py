"""Operations on each number by itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.lax import RoundingMethod

from jaxcovid.weights.jaxpr_to_onnx.graph import Affine, Graph, Tensor, constant, element_type
from jaxcovid.weights.jaxpr_to_onnx.rule import Rule, apply

_OPERATORS = {
    "add": "Add",
    "add_any": "Add",
    "and": "And",
    "div": "Div",
    "eq": "Equal",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "not": "Not",
    "or": "Or",
    "sign": "Sign",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}


def _channelwise(primitive: str, operands: Sequence[Tensor]) -> Affine | None:
    """What adds a constant to each channel of a map or multiplies them; None if it is not that."""
    if primitive not in ("add", "sub", "mul") or len(operands[0].shape) != 4:
        return None
    x, other = operands if operands[0].array is None else operands[::-1]
    if x.array is not None or other.array is None or x.actual != x.shape:
        return None
    negated = primitive == "sub" and x is operands[1]
    channels = x.shape[-1]
    if x.dtype != np.float32 or other.array.size not in (1, channels) or negated:
        return None
    if other.array.size == channels and other.array.shape[-1:] != (channels,):
        return None
    value = np.broadcast_to(other.array.astype(np.float64).ravel(), channels)
    before = x.affine or Affine(x, np.ones(channels), np.zeros(channels))
    if primitive == "mul":
        return Affine(before.base, before.multiplier * value, before.shift * value)
    change = value if primitive == "add" else -value
    return Affine(before.base, before.multiplier, before.shift + change)


def _elementwise(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    primitive = equation.primitive.name
    if affine := _channelwise(primitive, operands):
        aval = equation.outvars[0].aval
        return Tensor(aval.shape, aval.dtype, affine.base.actual, affine=affine)
    if primitive == "max":
        for x, other in (operands, operands[::-1]):
            if other.array is not None and not other.array.any() and x.dtype == np.float32:
                return apply(graph, "Relu", equation, [x])
    return apply(graph, _OPERATORS[primitive], equation, operands)


def _cast(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    return apply(graph, "Cast", equation, operands, to=element_type(equation.params["new_dtype"]))


def _not_equal(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    return apply(graph, "Not", equation, [apply(graph, "Equal", equation, operands)])


def _remainder(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    """The remainder with the sign of the dividend, as in C."""
    if equation.outvars[0].aval.dtype.kind == "f":
        return apply(graph, "Mod", equation, operands, fmod=1)
    x, divisor = operands
    whole = apply(graph, "Div", equation, [x, divisor])
    return apply(graph, "Sub", equation, [x, apply(graph, "Mul", equation, [whole, divisor])])


def _shift_right(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    """Division by a power of two, rounded down: ONNX shifts unsigned numbers only."""
    x, bits = operands
    if bits.array is None:
        raise NotImplementedError("a shift by a number of bits that is not constant")
    divisor = constant((1 << bits.array).astype(x.dtype))
    below = apply(graph, "Mod", equation, [x, divisor])
    return apply(graph, "Div", equation, [apply(graph, "Sub", equation, [x, below]), divisor])


def _round(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    if equation.params["rounding_method"] != RoundingMethod.TO_NEAREST_EVEN:
        raise NotImplementedError("rounding of a half away from zero")
    return apply(graph, "Round", equation, operands)


def _rsqrt(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    return apply(graph, "Reciprocal", equation, [apply(graph, "Sqrt", equation, operands)])


def _square(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    if equation.params.get("y", 2) != 2:
        raise NotImplementedError(f"the power {equation.params['y']}")
    return apply(graph, "Mul", equation, [operands[0], operands[0]])


def _select(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> Tensor:
    condition, otherwise, chosen = operands
    return apply(graph, "Where", equation, [condition, chosen, otherwise])


RULES: dict[str, Rule] = {
    **dict.fromkeys(_OPERATORS, _elementwise),
    "convert_element_type": _cast,
    "integer_pow": _square,
    "ne": _not_equal,
    "rem": _remainder,
    "round": _round,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "shift_right_arithmetic": _shift_right,
    "square": _square,
}
