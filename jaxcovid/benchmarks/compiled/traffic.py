"""What a compiled program moves through device memory, and what devices exchange, by its text.

An estimate of leading order, without caches: each kernel reads its operands once and writes its
results once. Of an operand that a kernel only slices, the slices count; of a result that replaces a
part of an operand in place, that part. Kernels of our own say in the attributes `read_bytes` and
`written_bytes` what they move. What lies in the memory on the chip costs nothing.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from jaxcovid.benchmarks.compiled.collectives import (
    Collective,
    End,
    Start,
    find_collective,
    is_exchange,
)
from jaxcovid.benchmarks.compiled.hlo import Computation, Instruction, Module

# Operations that are no kernel: names, layouts that do not change, ends of what runs meanwhile.
_FREE = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "opt-barrier"),
        *("partition-id", "replica-id", "after-all", "add-dependency", "async-update"),
        *("copy-done", "slice-done", "async-done", "all-reduce-done", "all-gather-done"),
        *("collective-permute-done", "recv-done", "send-done"),
    )
)
_ALLOCATES = 'custom_call_target="AllocateBuffer"'  # writes nothing
_EXCHANGE = "collectives"  # a kind of kernel
_CALLS = ("while", "call", "conditional", "async-start")
_MOVES = _FREE | {  # operations that compute nothing
    *("fusion", "reshape", "copy", "transpose", "convert", "slice", "dynamic-slice", "pad"),
    *("dynamic-update-slice", "broadcast", "concatenate", "copy-start", "slice-start"),
}
_KINDS = (
    ("products and convolutions", {"dot", "convolution"}),
    ("scatters", {"scatter", "select-and-scatter"}),
    ("reductions", {"reduce", "reduce-window"}),
)
_CUSTOM_CALLS = (  # by a part of their target's name
    ("products and convolutions", ("cudnn", "cublas")),
    ("kernels of our own", ("triton", "mosaic", "tpu_custom_call")),
)


@dataclass(frozen=True)
class Kernel:
    """An operation that runs on the device by itself.

    Attributes:
      name: of the operation.
      kind: what it computes, in words.
      read: bytes of device memory.
      written: likewise.
      runs: how many times.
    """

    name: str
    kind: str
    read: int
    written: int
    runs: int = 1

    @property
    def bytes_moved(self) -> int:
        """Bytes of all runs."""
        return self.runs * (self.read + self.written)


@dataclass(frozen=True)
class Traffic:
    """The kernels and collectives of a program."""

    kernels: tuple[Kernel, ...]
    collectives: tuple[Collective, ...]

    @property
    def launches(self) -> int:
        """Kernels that run."""
        return sum(kernel.runs for kernel in self.kernels)

    @property
    def bytes_moved(self) -> int:
        """Bytes through device memory."""
        return sum(kernel.bytes_moved for kernel in self.kernels)

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """Launches and bytes of each kind of kernel, the largest first."""
        launches, moved = Counter[str](), Counter[str]()
        for kernel in self.kernels:
            launches[kernel.kind] += kernel.runs
            moved[kernel.kind] += kernel.bytes_moved
        return {kind: (launches[kind], size) for kind, size in moved.most_common()}


def measure_traffic(module: Module) -> Traffic:
    """The traffic of a program.

    What runs beside several collectives at once counts for the one that began first.
    """
    kernels: list[Kernel] = []
    collectives: list[Collective] = []
    running: dict[str, Collective] = {}
    for part in _run(module, module.computations[module.entry], 1):
        if isinstance(part, Collective):
            collectives.append(part)
        elif isinstance(part, Start):
            running[part.name] = part.collective
        elif isinstance(part, End):
            if part.name in running:
                collectives.append(running.pop(part.name))
        else:
            kernels.append(part)
            if running and part.kind != _EXCHANGE:
                name, first = next(iter(running.items()))
                moved = first.beside + part.bytes_moved
                running[name] = replace(first, kernels=first.kernels + part.runs, beside=moved)
    return Traffic(tuple(kernels), (*collectives, *running.values()))


def _run(
    module: Module, computation: Computation, runs: int, started_by: str = ""
) -> Iterator[Kernel | Collective | Start | End]:
    """What a computation runs, so many times, in the order of its schedule.

    Args:
      module: the program.
      computation: a part of it.
      runs: how many times.
      started_by: the operation that runs it beside others; empty: it runs by itself.
    """
    for instruction in computation.instructions.values():
        if exchange := find_collective(module, instruction, runs, started_by):
            yield exchange
        if instruction.opcode in _FREE or _ALLOCATES in instruction.attributes:
            continue
        if instruction.opcode in _CALLS:
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.attributes)
            times = runs * int(trips[1]) if trips else runs
            starter = instruction.name if instruction.opcode == "async-start" else started_by
            for name in instruction.called:
                yield from _run(module, module.computations[name], times, starter)
            continue
        read, written = _moved(module, computation, instruction)
        yield Kernel(instruction.name, _kind(module, instruction), read, written, runs)


def _kind(module: Module, instruction: Instruction) -> str:
    """What an operation computes, in words."""
    if is_exchange(instruction):
        return _EXCHANGE
    if instruction.opcode == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
        for kind, names in _CUSTOM_CALLS:
            if target and any(name in target[1] for name in names):
                return kind
        return "calls of the compiler"
    opcodes = set(_opcodes(module, instruction))
    for kind, of_kind in _KINDS:
        if opcodes & of_kind:
            return kind
    return "copies" if opcodes <= _MOVES else "elementwise"


def _opcodes(module: Module, instruction: Instruction) -> Iterator[str]:
    """The opcodes of an operation and of what is fused into it."""
    yield instruction.opcode
    if instruction.opcode == "fusion":
        for name in instruction.called:
            for inner in module.computations[name].instructions.values():
                yield from _opcodes(module, inner)


def _moved(module: Module, computation: Computation, instruction: Instruction) -> tuple[int, int]:
    """Bytes of device memory that an operation reads and writes."""
    opcode = instruction.opcode
    operands = [computation.instructions.get(name) for name in instruction.operands]
    sizes = [_stored(operand) if operand else 0 for operand in operands]
    result = _stored(instruction)
    if opcode == "fusion":
        body = module.computations[instruction.called[0]]
        read = sum(
            size * _share_read(module, body, number) for number, size in enumerate(sizes) if size
        )
        return round(read), _written(module, body)
    if opcode in ("copy-start", "slice-start"):
        # Their results: (destination, source, context) and (source, destination, context).
        destination = instruction.shape[0 if opcode == "copy-start" else 1]
        share = destination.elements / max(1, operands[0].elements) if operands[0] else 1
        return round(sizes[0] * share), 0 if destination.space else destination.stored_bytes
    if opcode in ("slice", "dynamic-slice"):
        share = instruction.elements / max(1, operands[0].elements) if operands[0] else 1
        return round(sizes[0] * share), result
    if opcode == "dynamic-update-slice":
        return sizes[1], sizes[1]
    if stated := re.search(r'read_bytes="(\d+)",written_bytes="(\d+)"', instruction.attributes):
        return int(stated[1]), int(stated[2])
    if opcode.endswith("-start"):
        return sum(sizes), sum(sizes)
    return sum(sizes), result


def _stored(instruction: Instruction) -> int:
    """Bytes of device memory that a result takes."""
    return sum(array.stored_bytes for array in instruction.shape if not array.space)


def _share_read(module: Module, body: Computation, number: int) -> float:
    """The share of a parameter that a fused computation reads."""
    parameter = body.parameter(number)
    return _share_needed(module, body, parameter) if parameter else 1.0


def _share_needed(module: Module, body: Computation, value: Instruction) -> float:
    """The share of a value's elements that those who use it need, at most 1."""
    if value.is_root:
        return 1.0
    share = 0.0
    for user in body.users[value.name]:
        if user.opcode in ("slice", "dynamic-slice"):
            share += user.elements / value.elements * _share_needed(module, body, user)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == value.name:
            share += 0.0 if _is_result(body, user) else _share_needed(module, body, user)
        elif user.opcode == "fusion":
            inner = module.computations[user.called[0]]
            share += sum(
                _share_read(module, inner, number)
                for number, operand in enumerate(user.operands)
                if operand == value.name
            )
        elif user.elements == value.elements and user.opcode not in ("reverse", "sort", "scatter"):
            share += _share_needed(module, body, user)
        else:
            return 1.0
        if share >= 1:
            return 1.0
    return share


def _is_result(body: Computation, value: Instruction) -> bool:
    """True of a value that the computation returns, alone or in a tuple, as it is."""
    while not value.is_root:
        users = body.users[value.name]
        if len(users) != 1 or users[0].opcode not in ("bitcast", "tuple", "copy"):
            return False
        value = users[0]
    return True


def _written(module: Module, body: Computation) -> int:
    """Bytes of device memory that a fused computation writes."""
    root = body.root
    outputs = [body.instructions[o] for o in root.operands] if root.opcode == "tuple" else [root]
    places = root.shape if root.opcode == "tuple" else root.shape[:1]
    if len(places) != len(outputs):  # an output that is itself a tuple
        return _stored(root)
    written = 0
    for output, place in zip(outputs, places, strict=True):
        if place.space:
            continue
        while output.opcode == "bitcast":
            output = body.instructions[output.operands[0]]
        if output.opcode == "fusion":
            written += _written(module, module.computations[output.called[0]])
        elif output.opcode == "dynamic-update-slice":
            written += _stored(body.instructions[output.operands[1]])
        else:
            written += place.stored_bytes
    return written
