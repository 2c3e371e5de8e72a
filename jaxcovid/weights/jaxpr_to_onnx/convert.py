"""A function of JAX as an ONNX model.

No kept converter takes our networks: tf2onnx does not read what jax2tf writes today, and jax2onnx
replaces functions of Flax while it traces, has no symbolic height and width, and asks for an older
orbax than jaxcovid has. A network and its heatmaps consist of some 45 operations, each of which has
a rule of a few lines here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxcovid.weights.jaxpr_to_onnx import elementwise, layers, shapes
from jaxcovid.weights.jaxpr_to_onnx.graph import Graph, Shape, Tensor, constant

_RULES = {**elementwise.RULES, **layers.RULES, **shapes.RULES}
_CALLS = ("jaxpr", "call_jaxpr")  # parameters that hold the body of a call


def convert(
    function: Callable[[jax.Array], Mapping[str, jax.Array]],
    name: str,
    argument: jax.ShapeDtypeStruct,
    *,
    metadata: Mapping[str, str],
) -> onnx.ModelProto:
    """Converts a function of one array.

    Args:
      function: from the array to its results by name.
      name: of the input.
      argument: shape and dtype of the input; dimensions may be symbolic, see `jax.export`.
      metadata: is written into the model.

    Raises:
      NotImplementedError: it uses an operation that has no rule.
    """
    closed, results = jax.make_jaxpr(function, return_shape=True)(argument)
    graph = Graph()
    inputs = {name: graph.input(name, argument.shape, argument.dtype)}
    outputs = _write(graph, closed, list(inputs.values()))
    names = jax.tree.unflatten(jax.tree.structure(results), outputs)
    return graph.model(inputs, names, metadata)


def _write(graph: Graph, closed: ClosedJaxpr, arguments: Sequence[Tensor]) -> list[Tensor]:
    """Writes the equations of a program into a graph and returns its results."""
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, map(constant, closed.consts), strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)

    def value(variable: Any) -> Tensor:
        if isinstance(variable, Literal):
            aval: Any = variable.aval
            return constant(np.asarray(variable.val, aval.dtype))
        return values[variable]

    for equation in _needed(jaxpr):
        operands = [value(variable) for variable in equation.invars]
        values |= zip(equation.outvars, _results(graph, equation, operands), strict=True)
    return [value(variable) for variable in jaxpr.outvars]


def _needed(jaxpr: Jaxpr) -> list[Any]:
    """The equations that the results of a program depend on, in order."""
    wanted, equations = set(_variables(jaxpr.outvars)), []
    for equation in reversed(jaxpr.eqns):
        if wanted.intersection(equation.outvars):
            wanted |= set(_variables(equation.invars))
            equations.append(equation)
    return equations[::-1]


def _variables(atoms: Sequence[Any]) -> list[Any]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _results(graph: Graph, equation: Any, operands: Sequence[Tensor]) -> list[Tensor]:
    """What an equation makes: computed here if it depends on constants only."""
    bodies = [equation.params[name] for name in _CALLS if name in equation.params]
    if bodies:
        return _write(graph, bodies[0], operands)
    primitive = equation.primitive.name
    static = all(_is_static(variable.aval.shape) for variable in equation.outvars)
    arrays = [
        np.broadcast_to(x.array, x.shape)
        for x in operands
        if x.array is not None and _is_static(x.shape)
    ]
    if (
        static
        and len(arrays) == len(operands)
        and primitive not in ("broadcast_in_dim", "dim_as_value")
    ):
        made = equation.primitive.bind(*arrays, **equation.params)
        several = made if equation.primitive.multiple_results else [made]
        return [constant(np.asarray(array)) for array in several]
    if primitive not in _RULES:
        raise NotImplementedError(f"no rule writes JAX's operation {primitive} in ONNX")
    made = _RULES[primitive](graph, equation, operands)
    return made if isinstance(made, list) else [made]


def _is_static(shape: Shape) -> bool:
    return all(isinstance(side, int) for side in shape)
