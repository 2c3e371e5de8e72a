"""Arrays of what PyTorch pickled: a state dict, a checkpoint around one, or a whole module."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

from jaxcovid.weights.files.pickle_data import Call, Global, PersistentId
from jaxcovid.weights.files.weight_file import Content

_DTYPES = {
    "torch.FloatStorage": np.float32,
    "torch.DoubleStorage": np.float64,
    "torch.HalfStorage": np.float16,
    "torch.BFloat16Storage": ml_dtypes.bfloat16,
    "torch.LongStorage": np.int64,
    "torch.IntStorage": np.int32,
    "torch.ShortStorage": np.int16,
    "torch.CharStorage": np.int8,
    "torch.ByteStorage": np.uint8,
    "torch.BoolStorage": np.bool_,
}
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # keys of checkpoints
_TENSOR = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_PARAMETER = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_MOST_DIMENSIONS = 8
_MOST_MODULES = 20_000

# The bytes of a storage by its key.
Storages = Callable[[str], memoryview]


def storage_id(value: Any) -> tuple[str, np.dtype[Any], int]:
    """Key, dtype and number of elements of the storage that a persistent id refers to.

    Raises:
      ValueError: it refers to something else.
    """
    if isinstance(value, PersistentId) and isinstance(value.value, tuple):
        match value.value:
            case ("storage", Global(name), str(key), _, int(count), *rest) if name in _DTYPES:
                if count >= 0 and rest in ([], [None]):
                    return key, np.dtype(_DTYPES[name]), count
            case ("storage", Global(name), *_) if name not in _DTYPES:
                raise ValueError(f"tensors of {name} are not read")
    raise ValueError("a tensor has no storage that can be read")


def _is_size(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _as_tensor(call: Call, storages: Storages) -> np.ndarray:
    """The view of a storage that is a tensor.

    Raises:
      ValueError: it is no such view, reaches out of the storage or visits an element twice.
    """
    arguments = call.arguments
    if not isinstance(arguments, tuple) or len(arguments) < 4:
        raise ValueError("a tensor lacks its storage, offset, shape or strides")
    key, dtype, count = storage_id(arguments[0])
    offset, shape, strides = arguments[1:4]
    shape, strides = _as_sizes(shape), _as_sizes(strides)
    if not _is_size(offset, 0) or len(shape) != len(strides):
        raise ValueError(
            f"a tensor of shape {shape} and strides {strides} has no offset of 0 or more, or not "
            "as many strides as dimensions"
        )
    data = storages(key)
    if len(data) != count * dtype.itemsize:
        raise ValueError(
            f"storage {key:.40} has {len(data):,} bytes; {count:,} elements of {dtype} need "
            f"{count * dtype.itemsize:,}"
        )
    if math.prod(shape) == 0:
        return np.zeros(shape, dtype)
    # From the innermost axis outwards, each step leads beyond all that the axes inside visit.
    reach = 1
    for step, size in sorted((s, n) for n, s in zip(shape, strides, strict=True) if n > 1):
        if step < reach:
            raise ValueError(f"a tensor of shape {shape} and strides {strides} overlaps itself")
        reach = step * (size - 1) + reach
    if offset + reach > count:
        raise ValueError(
            f"a tensor reaches to element {offset + reach:,} of storage {key:.40}, which has "
            f"{count:,}"
        )
    flat = np.frombuffer(data, dtype)[offset:]
    steps = tuple(step * dtype.itemsize for step in strides)
    return np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)


def _as_sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > _MOST_DIMENSIONS:
        raise ValueError(f"a tensor's shape and strides must be up to {_MOST_DIMENSIONS} numbers")
    if not all(_is_size(size, 0) and size < 2**40 for size in value):
        raise ValueError("a tensor's shape and strides must be numbers of 0 or more, below 2^40")
    return value


def _as_array(value: Any, storages: Storages) -> np.ndarray | None:
    """The array of a tensor or parameter; None of another value."""
    if isinstance(value, Call) and isinstance(value.function, Global):
        name, arguments = value.function.name, value.arguments
        if name in _PARAMETER and isinstance(arguments, tuple) and arguments:
            value = arguments[0]
            name = getattr(getattr(value, "function", None), "name", "")
        if name in _TENSOR:
            return _as_tensor(value, storages)
    return None


def _module_state(value: Any) -> dict[str, Any] | None:
    """The attributes of a pickled module; None of another value."""
    if isinstance(value, Call) and isinstance(value.state, dict) and "_modules" in value.state:
        return value.state
    return None


def _children(state: dict[str, Any], kind: str) -> Iterator[tuple[str, Any]]:
    children = state.get(kind)
    if isinstance(children, dict):
        yield from ((name, value) for name, value in children.items() if isinstance(name, str))


def _arrays_of_module(state: dict[str, Any], storages: Storages) -> dict[str, np.ndarray]:
    """Parameters and buffers of a module by the names that its state dict would give them."""
    arrays: dict[str, np.ndarray] = {}
    waiting, seen = [("", state)], {id(state)}
    while waiting:
        prefix, state = waiting.pop()
        for kind in ("_parameters", "_buffers"):
            for name, value in _children(state, kind):
                array = _as_array(value, storages)
                if array is not None:
                    arrays[prefix + name] = array
        for name, value in _children(state, "_modules"):
            child = _module_state(value)
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                waiting.append((f"{prefix}{name}.", child))
        if len(seen) > _MOST_MODULES:
            raise ValueError(f"more than {_MOST_MODULES:,} modules are not read")
    return arrays


def _class_name(module: Any) -> str:
    function = module.function
    if isinstance(function, PersistentId):  # ("module", class, file, source), of old versions
        parts = function.value
        function = parts[1] if isinstance(parts, tuple) and len(parts) > 1 else None
    elif function == Global("copyreg._reconstructor") and isinstance(module.arguments, tuple):
        function = module.arguments[0] if module.arguments else None
    return function.name if isinstance(function, Global) else ""


def content_of(value: Any, storages: Storages) -> Content:
    """The arrays of a pickled state dict, checkpoint or module.

    Args:
      value: see `pickle_data.read_pickle`.
      storages: of the tensors.

    Raises:
      ValueError: there are none, or a tensor is damaged.
    """
    for _ in range(2):  # a checkpoint may hold one in another
        if isinstance(value, dict):
            value = next((value[key] for key in _WRAPPERS if key in value), value)
    state = _module_state(value)
    if state is not None:
        return Content(_arrays_of_module(state, storages), _class_name(value))
    arrays = {}
    for name, element in value.items() if isinstance(value, dict) else ():
        array = _as_array(element, storages)
        if array is not None and isinstance(name, str):
            arrays[name] = array
    if not arrays:
        raise ValueError(
            "it holds no state dict, no module and no checkpoint with one under "
            f"{', '.join(_WRAPPERS)}"
        )
    return Content(arrays)
