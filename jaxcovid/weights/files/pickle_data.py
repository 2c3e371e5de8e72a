"""Reads pickles as data: what they ask to call is recorded, and nothing is called or imported.

Python's own unpickler can be kept from importing, but it also sizes its memo by a number of the
file. Here opcodes are decoded by `pickletools` and put together by the few lines below.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
# Opcodes whose decoded argument is the value.
_LITERALS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_KEYS = (str, bytes, int, float, type(None))  # of dictionaries; tuples could take long to hash


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names.

    Attributes:
      name: with its module, such as `collections.OrderedDict`.
    """

    name: str


@dataclass(frozen=True)
class PersistentId:
    """A reference to something outside the pickle; PyTorch refers to storages so."""

    value: Any


@dataclass(eq=False)
class Call:
    """An object of a pickle: what would be called, and what would be done with the result.

    Attributes:
      function: what is called, usually a `Global`.
      arguments: of the call, usually a tuple.
      state: what the object would be given as its attributes.
      items: what would be assigned to it by key.
    """

    function: Any
    arguments: Any
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("the pickle takes a value that is not there")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("the pickle has no mark where one is needed")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def pop_many(self, count: int) -> tuple[Any, ...]:
        return tuple(self.pop() for _ in range(count))[::-1]

    def top(self, *kinds: type) -> Any:
        value = self.stack[-1] if self.stack else None
        if not isinstance(value, kinds):
            raise ValueError("the pickle fills what is no container")
        return value

    def extend(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def assign(self, values: list[Any]) -> None:
        target = self.top(dict, Call)
        if isinstance(target, Call):
            target = target.items
        target.update(_pairs(values))

    def call(self, function: Any, arguments: Any) -> None:
        ordered = function == Global("collections.OrderedDict") and arguments == ()
        self.stack.append({} if ordered else Call(function, arguments))

    def build(self) -> None:
        state = self.pop()
        # The attributes of a dictionary, such as the versions that PyTorch notes, are not needed.
        target = self.top(dict, Call)
        if isinstance(target, Call):
            target.state = state

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("the pickle names something by another value than text")
        self.stack.append(Global(f"{module}.{name}"))

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise ValueError("the pickle recalls a value that it has not kept")
        self.stack.append(self.memo[key])

    def keep(self, key: int) -> None:
        if not self.stack:
            raise ValueError("the pickle keeps a value that is not there")
        self.memo[key] = self.stack[-1]


def _pairs(values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        raise ValueError("the pickle has a key without a value")
    if not all(isinstance(key, _KEYS) for key in values[::2]):
        raise ValueError("the pickle has a key that is neither text nor a number")
    return dict(zip(values[::2], values[1::2], strict=True))


_ACTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda m, arg: None,
    "FRAME": lambda m, arg: None,
    "MARK": lambda m, arg: m.marks.append(len(m.stack)),
    "POP": lambda m, arg: m.pop(),
    "POP_MARK": lambda m, arg: m.pop_to_mark(),
    "EMPTY_LIST": lambda m, arg: m.stack.append([]),
    "EMPTY_SET": lambda m, arg: m.stack.append([]),
    "EMPTY_DICT": lambda m, arg: m.stack.append({}),
    "EMPTY_TUPLE": lambda m, arg: m.stack.append(()),
    "LIST": lambda m, arg: m.stack.append(m.pop_to_mark()),
    "FROZENSET": lambda m, arg: m.stack.append(m.pop_to_mark()),
    "TUPLE": lambda m, arg: m.stack.append(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, arg: m.stack.append(m.pop_many(1)),
    "TUPLE2": lambda m, arg: m.stack.append(m.pop_many(2)),
    "TUPLE3": lambda m, arg: m.stack.append(m.pop_many(3)),
    "DICT": lambda m, arg: m.stack.append(_pairs(m.pop_to_mark())),
    "APPEND": lambda m, arg: m.extend([m.pop()]),
    "APPENDS": lambda m, arg: m.extend(m.pop_to_mark()),
    "ADDITEMS": lambda m, arg: m.extend(m.pop_to_mark()),
    "SETITEM": lambda m, arg: m.assign(list(m.pop_many(2))),
    "SETITEMS": lambda m, arg: m.assign(m.pop_to_mark()),
    "GLOBAL": lambda m, arg: m.name(*arg.split(" ", 1)),
    "STACK_GLOBAL": lambda m, arg: m.name(*m.pop_many(2)),
    "REDUCE": lambda m, arg: m.call(*m.pop_many(2)),
    "NEWOBJ": lambda m, arg: m.call(*m.pop_many(2)),
    "NEWOBJ_EX": lambda m, arg: m.call(*m.pop_many(3)[:2]),
    "BUILD": lambda m, arg: m.build(),
    "BINPERSID": lambda m, arg: m.stack.append(PersistentId(m.pop())),
    "MEMOIZE": lambda m, arg: m.keep(len(m.memo)),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, arg: m.keep(arg)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, arg: m.recall(arg)),
    **dict.fromkeys(_LITERALS, lambda m, arg: m.stack.append(arg)),
}


def read_pickle(file: BinaryIO) -> Any:
    """The value of the pickle at the file's position, which is moved behind it.

    Returns:
      Numbers, text, lists, tuples and dictionaries; sets as lists, ordered dictionaries as plain
      ones, everything else as `Call`, `Global` or `PersistentId`.

    Raises:
      ValueError: it is damaged, or needs what only old versions of Python wrote.
    """
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "STOP":
            return machine.pop()
        if opcode.name in _CONSTANTS:
            machine.stack.append(_CONSTANTS[opcode.name])
        elif action := _ACTIONS.get(opcode.name):
            action(machine, argument)
        else:
            raise ValueError(f"the pickle uses the operation {opcode.name}, which is not read")
    raise ValueError("the pickle has no end")
