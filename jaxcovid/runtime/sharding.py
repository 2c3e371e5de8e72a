"""The mesh over the devices, and where batches and states are placed on it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

SLICE_AXIS = "slice"  # over slices: devices of one are joined by a faster network than slices are
BATCH_AXIS = "batch"  # over the devices of a slice
ROW_AXES = (SLICE_AXIS, BATCH_AXIS)  # over which the rows of a batch are spread


def make_mesh(
    count: int | None = None, *, devices: Sequence[jax.Device] | None = None, slices: int = 0
) -> Mesh:
    """A mesh of two axes, `ROW_AXES`, in the order of the slices and of the processes of each.

    The rows of a global batch that a process holds are then contiguous, see `process_order`.
    `jax.make_mesh` orders TPUs by the topology of their links, which interleaves the processes of
    a pod.

    Args:
      count: how many devices, from the first; None takes all.
      devices: to choose from; None is all devices of all processes.
      slices: such as the slices of a TPU job or the hosts of a GPU cluster. 0: as many as the
        devices say, one if they say nothing or their slices differ in size.

    Raises:
      ValueError: the devices do not divide into so many slices.
    """
    ordered = sorted(
        jax.devices() if devices is None else devices,
        key=lambda device: (_slice_index(device), device.process_index, device.id),
    )[:count]
    if slices == 0:
        sizes = Counter(map(_slice_index, ordered))
        slices = len(sizes) if len(set(sizes.values())) == 1 else 1
    _check_divides("slices", slices, len(ordered))
    shaped = np.array(ordered).reshape(slices, -1)
    return Mesh(shaped, ROW_AXES, axis_types=(AxisType.Auto,) * 2)


def _slice_index(device: jax.Device) -> int:
    """The slice that a device says it is in; 0 if it says nothing."""
    return getattr(device, "slice_index", None) or 0


def process_order(mesh: Mesh) -> list[int]:
    """The processes in the order in which they hold the rows of a global batch.

    It differs from that of their numbers where the processes of slices were numbered in turns.
    """
    return list(dict.fromkeys(device.process_index for device in mesh.devices.flat))


def process_place(mesh: Mesh) -> tuple[int, int]:
    """The place of this process in `process_order`, and how many there are."""
    processes = process_order(mesh)
    return processes.index(jax.process_index()), len(processes)


def platform_of(mesh: Mesh) -> str:
    """The platform of the mesh's devices: `cpu`, `gpu` or `tpu`; not always JAX's default."""
    return mesh.devices.flat[0].platform


def in_groups(mesh: Mesh, shape: tuple[int, ...], names: tuple[str, ...]) -> Mesh:
    """A mesh of other axes over the same devices in the same order, which one program can use too.

    Args:
      mesh: the devices.
      shape: of the new mesh; -1 for the length that is left.
      names: of its axes.
    """
    return Mesh(mesh.devices.reshape(shape), names, axis_types=(AxisType.Auto,) * len(names))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch spread over the mesh."""
    return NamedSharding(mesh, P(ROW_AXES))


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, P())


def shard_state(state: Any, mesh: Mesh, fsdp: int) -> Any:
    """Where each array of a state lies: large ones split `fsdp` ways, all others on every device.

    Groups of `fsdp` devices hold one copy between them (fully sharded data parallelism); a step
    gathers the parameters before it uses them. An array is split along its longest side that
    divides, if it has 1,024 numbers or more.

    Args:
      state: a pytree of arrays or their shapes.
      mesh: the devices, see `make_mesh`.
      fsdp: 1 splits nothing.

    Returns:
      The same pytree of `NamedSharding`.

    Raises:
      ValueError: see `check_fsdp`.
    """
    check_fsdp(fsdp, mesh)
    groups = in_groups(mesh, (-1, fsdp), ("copy", "fsdp"))

    def sharding_of(x: Any) -> NamedSharding:
        lengths = [n if n % fsdp == 0 else 0 for n in x.shape]
        if fsdp == 1 or x.size < 1024 or not max(lengths):
            return replicated_sharding(mesh)
        longest = lengths.index(max(lengths))
        return NamedSharding(groups, P(*[None] * longest, "fsdp"))

    return jax.tree.map(sharding_of, state)


def check_fsdp(fsdp: int, mesh: Mesh) -> None:
    """Refuses groups into which the devices do not divide.

    Raises:
      ValueError: with the sizes that they do.
    """
    check_groups("fsdp", fsdp, mesh)


def check_groups(option: str, size: int, mesh: Mesh) -> None:
    """Refuses a size of groups, unless each lies within a slice or there is only one.

    Raises:
      ValueError: naming the option, and the sizes that do.
    """
    slices, devices = mesh.devices.shape
    if slices > 1 and size != mesh.size:
        _check_divides(option, size, devices, f"the {devices} devices of a slice", mesh.size)
    else:
        _check_divides(option, size, mesh.size)


def _check_divides(
    option: str, number: int, devices: int, which: str = "", beside: int | None = None
) -> None:
    """Refuses a number that does not divide so many devices.

    Raises:
      ValueError: naming the option, which devices they are, and the numbers that do and `beside`.
    """
    if number < 1 or devices % number:
        allowed = [n for n in range(1, devices + 1) if devices % n == 0]
        allowed += [beside] if beside else []
        raise ValueError(
            f"{option} is {number}, which does not divide {which or f'{devices} devices'}; use one "
            f"of {', '.join(map(str, allowed))}"
        )


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Refuses a global batch that does not spread evenly over the mesh.

    Raises:
      ValueError: with the nearest batch sizes that would.
    """
    devices = mesh.size
    if batch_size < 1 or batch_size % devices:
        below, above = batch_size // devices * devices, (batch_size // devices + 1) * devices
        fix = f"{below} or {above}" if below > 0 else str(above)
        raise ValueError(
            f"batch_size {batch_size} is not divisible by {devices} devices; use {fix}"
        )


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a global batch -> global arrays sharded over the mesh."""
    sharding = batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
