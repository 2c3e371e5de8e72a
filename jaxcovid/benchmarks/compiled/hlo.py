"""Reads the text of a compiled program: XLA's HLO, as `jax.stages.Compiled.as_text` returns it."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
    **dict.fromkeys(("f32", "s32", "u32"), 4),
    **dict.fromkeys(("f64", "s64", "u64", "c64"), 8),
}
_ARRAY = re.compile(r"\b(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_REFERENCE = re.compile(r"%([\w.\-]+)")


@dataclass(frozen=True)
class Array:
    """One array of a shape.

    Attributes:
      item_bytes: of an element.
      sides: its dimensions.
      order: dimensions from the one that is contiguous in memory outwards.
      tile: sides of the tiles in which a TPU stores the innermost dimensions; empty if none.
      space: of memory; 0 is the device's main memory, others are on the chip or on the host.
    """

    item_bytes: int
    sides: tuple[int, ...]
    order: tuple[int, ...]
    tile: tuple[int, ...] = ()
    space: int = 0

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.sides)

    @property
    def stored_bytes(self) -> int:
        """What it takes in memory, tiles filled up."""
        sides = list(self.sides)
        for dimension, side in zip(self.order, reversed(self.tile), strict=False):
            sides[dimension] = -(-sides[dimension] // side) * side
        return math.prod(sides) * self.item_bytes


def parse_shape(text: str) -> tuple[Array, ...]:
    """The arrays of a shape such as `(f32[8]{0}, bf16[2,128]{1,0:T(8,128)})`."""
    arrays = []
    for dtype, sides, order, tiling in _ARRAY.findall(text):
        if dtype not in _BYTES:
            continue
        tile = re.match(r"T\(([\d,]+)\)", tiling)
        space = re.search(r"S\((\d+)\)", tiling)
        arrays.append(
            Array(
                _BYTES[dtype],
                _integers(sides),
                _integers(order),
                _integers(tile[1]) if tile else (),
                int(space[1]) if space else 0,
            )
        )
    return tuple(arrays)


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


@dataclass(frozen=True)
class Instruction:
    """One operation of a computation.

    Attributes:
      name: unique in its program.
      shape: of its result.
      opcode: such as `fusion`.
      operands: names.
      argument: the text between its parentheses: of a parameter its number.
      attributes: the text behind them.
      is_root: its result is that of the computation.
    """

    name: str
    shape: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    argument: str
    attributes: str
    is_root: bool

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it runs, all branches of a conditional among them.

        Not the condition of a loop, nor the scalar computation of a reduction.
        """
        key = "calls|body|true_computation|false_computation"
        key = "to_apply" if self.opcode == "call" else key
        names = re.findall(rf"\b(?:{key})=%?([\w.\-]+)", self.attributes)
        for several in re.findall(r"\b\w+_computations=\{([^}]*)\}", self.attributes):
            names += [name.strip(" %") for name in several.split(",")]
        return tuple(names)

    @property
    def elements(self) -> int:
        """Number of elements of its result."""
        return sum(array.elements for array in self.shape)


@dataclass(frozen=True)
class Computation:
    """The operations of a function of the program, in the order of its schedule."""

    instructions: Mapping[str, Instruction]
    users: Mapping[str, Sequence[Instruction]]

    @property
    def root(self) -> Instruction:
        return next(i for i in self.instructions.values() if i.is_root)

    def parameter(self, number: int) -> Instruction | None:
        """The parameter of a number; None if there is none."""
        for instruction in self.instructions.values():
            if instruction.opcode == "parameter" and instruction.argument == str(number):
                return instruction
        return None


@dataclass(frozen=True)
class Module:
    """A program: its computations by name, and the name of the one that is called."""

    computations: Mapping[str, Computation]
    entry: str


def parse_module(text: str) -> Module:
    """The program of a text.

    Raises:
      ValueError: it has no entry computation.
    """
    computations, entry = {}, None
    for name, is_entry, lines in _computations(text):
        instructions = {i.name: i for i in map(_parse_instruction, lines) if i}
        users: dict[str, list[Instruction]] = {name: [] for name in instructions}
        for instruction in instructions.values():
            for operand in dict.fromkeys(instruction.operands):
                users.setdefault(operand, []).append(instruction)
        computations[name] = Computation(instructions, users)
        entry = name if is_entry else entry
    if entry is None:
        raise ValueError("the text is no HLO program: it has no entry computation")
    return Module(computations, entry)


def _computations(text: str) -> Iterator[tuple[str, bool, list[str]]]:
    """Name, whether it is the entry, and lines of each computation."""
    heading, lines = None, []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            heading, lines = match, []
        elif line.startswith("}") and heading:
            yield heading[2], bool(heading[1]), lines
            heading = None
        elif heading:
            lines.append(line)


def _parse_instruction(line: str) -> Instruction | None:
    match = _INSTRUCTION.match(line)
    if not match:
        return None
    root, name, rest = match.groups()
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, call = rest[:end], rest[end:].lstrip()
    start = call.index("(")
    stop = _closing(call, start)
    argument = call[start + 1 : stop]
    return Instruction(
        name,
        parse_shape(shape),
        call[:start],
        tuple(_REFERENCE.findall(argument)),
        argument,
        call[stop + 1 :],
        bool(root),
    )


def _closing(text: str, start: int) -> int:
    """The place of the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place
    raise ValueError(f"a parenthesis is not closed: {text[start : start + 60]}")
