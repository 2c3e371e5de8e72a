"""What the devices of a compiled program exchange: how much, among whom, and beside what."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxcovid.benchmarks.compiled.hlo import Instruction, Module

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Collective:
    """An operation by which devices exchange arrays.

    Attributes:
      kind: one of `KINDS`.
      size: bytes of its result.
      group: places in the mesh of the devices of its first group; empty: all devices.
      runs: how many times.
      kernels: how many run between its start and its end.
      beside: bytes of device memory that they move.
    """

    kind: str
    size: int
    group: tuple[int, ...] = ()
    runs: int = 1
    kernels: int = 0
    beside: int = 0

    def sent(self, devices: int) -> float:
        """Bytes that a device sends in each run, if so many devices form a ring."""
        parts = devices - 1
        share = {"all-reduce": 2 * parts / devices, "reduce-scatter": parts}
        return self.size * share.get(self.kind, parts / devices)

    def spans(self, shape: tuple[int, int]) -> tuple[int, int]:
        """How many slices its group covers, and how many devices of each.

        Args:
          shape: of the mesh: slices, and devices of each.
        """
        if not self.group:
            return shape
        covered = len({place // shape[1] for place in self.group})
        return covered, len(self.group) // covered


@dataclass(frozen=True)
class Start:
    """A collective that runs beside what follows.

    Attributes:
      name: of the operation that starts it.
      collective: what is exchanged.
    """

    name: str
    collective: Collective


@dataclass(frozen=True)
class End:
    """The end of a collective that runs beside other operations.

    Attributes:
      name: of the operation that has started it.
    """

    name: str


_FUSED = "async-collective-"  # a TPU's collective in three or more parts, fused with other kernels


def find_collective(
    module: Module, instruction: Instruction, runs: int, started_by: str = ""
) -> Start | End | Collective | None:
    """What an operation exchanges, starts to exchange or ends; None if nothing.

    Args:
      module: the program.
      instruction: the operation.
      runs: how many times.
      started_by: the operation that runs it beside others; empty: it runs by itself.
    """
    name, opcode = instruction.name, instruction.opcode
    if name.startswith(f"{_FUSED}done"):
        return End(name.replace("done", "start"))
    if opcode.endswith("-done"):
        return End(instruction.operands[0])
    if name.startswith(f"{_FUSED}start"):
        inner = module.computations[instruction.called[0]].instructions.values()
        found = (find_collective(module, part, runs, name) for part in inner)
        return next(part for part in found if part)
    if kind := _kind(instruction):
        collective = _parse(instruction, kind, runs)
        starter = name if opcode.endswith(("-start", "recv")) else started_by
        return Start(starter, collective) if starter else collective
    return None


def _kind(instruction: Instruction) -> str | None:
    """The kind of collective that an operation is or starts; None if it is none.

    Between slices a TPU's program hands arrays to the runtime of its host, and receives the result.
    """
    opcode = instruction.opcode
    between_slices = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)
    if opcode == "recv" and between_slices:
        opcode = between_slices[1].lower().replace("_", "-")
    return next((kind for kind in KINDS if opcode in (kind, f"{kind}-start")), None)


def _parse(instruction: Instruction, kind: str, runs: int) -> Collective:
    """The collective that an operation is or starts."""
    arrays, opcode = instruction.shape, instruction.opcode
    if opcode in ("all-gather-start", "reduce-scatter-start"):
        arrays = arrays[len(arrays) // 2 :]  # the operands come first
    elif opcode == "collective-permute-start":
        arrays = arrays[1:2]  # the operand comes first, contexts behind
    elif opcode == "recv":
        arrays = arrays[:1]  # a context comes behind
    size = sum(array.elements * array.item_bytes for array in arrays)
    return Collective(kind, size, _first_group(instruction.attributes), runs)


def is_exchange(instruction: Instruction) -> bool:
    """True of the operations of a collective."""
    return instruction.opcode.startswith((*KINDS, "send", "recv")) or instruction.name.startswith(
        _FUSED
    )


def _first_group(attributes: str) -> tuple[int, ...]:
    """The first of the replica groups, written `{{0,2},{1,3}}` or `[2,2]<=[2,2]T(1,0)`.

    Between slices of TPUs they are written `{1,2}x{0:15}`: slices, and devices of each.
    """
    if slices := re.search(r'_xla_megascale_target="\{([\d,]+)\}x\{0:(\d+)\}"', attributes):
        devices = int(slices[2]) + 1
        return tuple(range(0, devices * len(_integers(slices[1])), devices))
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return _integers(listed[1])
    counted = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if not counted:
        return ()
    shape, counts = _integers(counted[1]), _integers(counted[2])
    order: Sequence[int] = _integers(counted[3]) if counted[3] else range(len(counts))
    places = np.arange(math.prod(counts)).reshape(counts).transpose(order).reshape(shape)
    return tuple(places[0].tolist())


def _integers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))
