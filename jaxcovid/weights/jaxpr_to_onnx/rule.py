"""What the rules of all operations share."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxcovid.weights.jaxpr_to_onnx.graph import TO_FIRST, Graph, Shape, Tensor

# A rule gets the graph, an equation of a jaxpr and its operands, and returns what it makes.
Rule = Callable[[Graph, Any, Sequence[Tensor]], Tensor | list[Tensor]]
AXES_FIRST = tuple(TO_FIRST.index(axis) for axis in range(4))  # where each of JAX's axes goes


def result(equation: Any, *names: str, first: bool = False, actual: Shape | None = None) -> Tensor:
    """The tensor that an equation makes, by its name in the graph."""
    aval = equation.outvars[0].aval
    return Tensor(aval.shape, aval.dtype, actual or aval.shape, names={first: names[0]})


def _broadcast(operands: Sequence[Tensor]) -> Shape:
    """The shape of an elementwise result before broadcasts that are still to be done."""
    rank = max(len(x.shape) for x in operands)
    shapes = [x.actual for x in operands if len(x.shape) == rank]
    return tuple(next((d for d in dims if d != 1), 1) for dims in zip(*shapes, strict=True))


def apply(
    graph: Graph, operator: str, equation: Any, operands: Sequence[Tensor], **attributes: Any
) -> Tensor:
    """An operator of ONNX on tensors of one shape, maps in the order that they have."""
    first = any(x.channels_first for x in operands)
    names = [graph.first(x) if first and len(x.shape) == 4 else graph.last(x) for x in operands]
    name = graph.add(operator, names, **attributes)
    return result(equation, name, first=first, actual=_broadcast(operands))
