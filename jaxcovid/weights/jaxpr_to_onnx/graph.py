"""An ONNX graph under construction, and the tensors in it.

A tensor is what JAX calls a value. It keeps three things back until they are needed: a constant is
not written, a broadcast is left to the operator that reads it, and a map [b, h, w, c] stays in
ONNX's order [b, c, h, w] from one convolution to the next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 18  # read by ONNX Runtime from 1.14 and OpenVINO from 2023.1
IR_VERSION = 9
TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # of the channels
Shape = tuple[Any, ...]  # numbers, and symbolic dimensions of JAX


@dataclass(frozen=True)
class Affine:
    """A multiplication and an addition of each channel that are still to be done.

    Attributes:
      base: the map.
      multiplier: float64 [c].
      shift: float64 [c].
    """

    base: "Tensor"
    multiplier: np.ndarray
    shift: np.ndarray


@dataclass(eq=False)
class Tensor:
    """A value of a program.

    Attributes:
      shape: as JAX has it.
      dtype: likewise.
      actual: the shape without broadcasts that are still to be done: 1 in their place.
      array: of a constant, in its actual shape; else None.
      names: in the graph, by whether channels come first.
      affine: what makes it, while it has no name.
    """

    shape: Shape
    dtype: Any
    actual: Shape
    array: np.ndarray | None = None
    names: dict[bool, str] = field(default_factory=dict)
    affine: Affine | None = None

    @property
    def channels_first(self) -> bool:
        """True of a map that is in ONNX's order, or will be when it is made."""
        return self.affine is not None or (self.array is None and True in self.names)


def constant(array: Any, shape: Shape | None = None) -> Tensor:
    """A constant, broadcast to a shape."""
    array = np.asarray(array)
    return Tensor(shape or array.shape, array.dtype, array.shape, array)


class Graph:
    """Nodes in order, with the constants that they read."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[Any, ...], str] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._dimensions: dict[Any, str] = {}
        self._count = 0

    def add(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node of one output and returns the output's name."""
        if operator == "Transpose" and list(attributes["perm"]) == sorted(attributes["perm"]):
            return inputs[0]
        return self.add_several(operator, inputs, 1, **attributes)[0]

    def add_several(
        self, operator: str, inputs: Sequence[str], count: int, **attributes: Any
    ) -> list[str]:
        """Adds a node of several outputs and returns their names."""
        outputs = [f"{operator.lower()}_{self._count + i}" for i in range(count)]
        self._count += count
        self._nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
        return outputs

    def constant(self, array: Any, dtype: Any = None) -> str:
        """The name of a constant; equal ones share it."""
        array = np.ascontiguousarray(np.asarray(array, dtype)).reshape(np.shape(array))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = f"constant_{len(self._constants)}"
            self._arrays[self._constants[key]] = array
        return self._constants[key]

    def input(self, name: str, shape: Shape, dtype: Any) -> Tensor:
        """An input of the graph; its symbolic dimensions are known from here on."""
        self._know_dimensions(name, shape)
        return Tensor(shape, dtype, shape, names={False: name})

    def dimension(self, dimension: Any) -> str:
        """The name of a dimension, int64 [1].

        Raises:
          NotImplementedError: it is symbolic, and not a dimension of an input.
        """
        if isinstance(dimension, int | np.integer):
            return self.constant([dimension], np.int64)
        if dimension not in self._dimensions:
            raise NotImplementedError(f"{dimension} is not a dimension of an input")
        return self._dimensions[dimension]

    def shape(self, shape: Shape) -> str:
        """The name of a shape, int64 [rank]."""
        if all(isinstance(d, int) for d in shape):
            return self.constant(shape, np.int64)
        return self.add("Concat", [self.dimension(d) for d in shape], axis=0)

    def reshape(self, name: str, shape: Shape) -> str:
        """Reshapes; one dimension may be a product of others, and is known from here on."""
        products = [d for d in shape if not isinstance(d, int) and d not in self._dimensions]
        if not products:
            return self.add("Reshape", [name, self.shape(shape)])
        parts = [self.dimension(-1 if d in products else d) for d in shape]
        reshaped = self.add("Reshape", [name, self.add("Concat", parts, axis=0)])
        self._know_dimensions(reshaped, shape)
        return reshaped

    def _know_dimensions(self, name: str, shape: Shape) -> None:
        """Remembers where the symbolic dimensions of a shape are read from."""
        for axis, dimension in enumerate(shape):
            if not isinstance(dimension, int) and dimension not in self._dimensions:
                index, sides = self.constant([axis], np.int64), self.add("Shape", [name])
                self._dimensions[dimension] = self.add("Gather", [sides, index], axis=0)

    def last(self, tensor: Tensor, *, full: bool = False) -> str:
        """The name of a tensor in JAX's order.

        Args:
          tensor: any.
          full: also carry out a broadcast.
        """
        name = self._named(tensor, first=False)
        if full and tensor.actual != tensor.shape:
            name = self.add("Expand", [name, self.shape(tensor.shape)])
        return name

    def first(self, tensor: Tensor) -> str:
        """The name of a map [b, h, w, c] in ONNX's order [b, c, h, w]."""
        return self._named(tensor, first=True)

    def _named(self, tensor: Tensor, *, first: bool) -> str:
        if first in tensor.names:
            return tensor.names[first]
        if tensor.array is not None:
            turned = tensor.array.transpose(TO_FIRST) if first else tensor.array
            tensor.names[first] = self.constant(turned)
        elif tensor.names:
            order = TO_FIRST if first else TO_LAST
            tensor.names[first] = self.add("Transpose", [tensor.names[not first]], perm=order)
        elif tensor.affine:
            tensor.names[True] = self._carry_out(tensor.affine)
            return self._named(tensor, first=first)
        return tensor.names[first]

    def _carry_out(self, affine: Affine) -> str:
        """The map [b, c, h, w] of a multiplication and an addition: a batch normalisation."""
        multiplier, shift = (x.astype(np.float32) for x in (affine.multiplier, affine.shift))
        zeros, ones = np.zeros_like(shift), np.ones_like(shift)
        constants = [self.constant(x) for x in (multiplier, shift, zeros, ones)]
        return self.add("BatchNormalization", [self.first(affine.base), *constants], epsilon=0.0)

    def model(
        self,
        inputs: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        metadata: Mapping[str, str],
    ) -> onnx.ModelProto:
        """The finished model, without the nodes that no output needs."""
        for name, tensor in outputs.items():
            source = self.last(tensor, full=True)
            self._nodes.append(helper.make_node("Identity", [source], [name]))
        needed, nodes = set(outputs), []
        for node in reversed(self._nodes):
            if needed & set(node.output):
                needed |= set(node.input)
                nodes.append(node)
        graph = helper.make_graph(
            nodes[::-1],
            "jaxcovid",
            [_value_info(name, tensor) for name, tensor in inputs.items()],
            [_value_info(name, tensor) for name, tensor in outputs.items()],
            [
                numpy_helper.from_array(array, name)
                for name, array in self._arrays.items()
                if name in needed
            ],
        )
        model = helper.make_model(
            graph,
            producer_name="jaxcovid",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model


def element_type(dtype: Any) -> int:
    """ONNX's number of a NumPy dtype."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _value_info(name: str, tensor: Tensor) -> onnx.ValueInfoProto:
    shape = [d if isinstance(d, int) else str(d) for d in tensor.shape]
    return helper.make_tensor_value_info(name, element_type(tensor.dtype), shape)
