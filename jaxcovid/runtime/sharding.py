"""The mesh over the devices, and where batches and states are placed on it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

BATCH_AXIS = "batch"


def make_mesh(count: int | None = None, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis, `BATCH_AXIS`, in the order of the processes.

    The rows of a global batch that a process holds are then contiguous and follow those of the
    processes before it, as `pipeline` deals them out. `jax.make_mesh` orders TPUs by the topology
    of their links, which interleaves the processes of a pod.

    Args:
      count: how many devices, from the first; None takes all.
      devices: to choose from; None is all devices of all processes.
    """
    ordered = sorted(
        jax.devices() if devices is None else devices,
        key=lambda device: (device.process_index, device.id),
    )
    return Mesh(np.array(ordered[:count]), (BATCH_AXIS,), axis_types=(AxisType.Auto,))


def platform_of(mesh: Mesh) -> str:
    """The platform of the mesh's devices: `cpu`, `gpu` or `tpu`; not always JAX's default."""
    return mesh.devices.flat[0].platform


def in_groups(mesh: Mesh, size: int, names: tuple[str, str]) -> Mesh:
    """A mesh of two axes, over groups of neighbours and over the `size` devices of each.

    The devices and their order are the same, so that one program can use both meshes.
    """
    return Mesh(mesh.devices.reshape(-1, size), names, axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch spread over the mesh."""
    return NamedSharding(mesh, P(BATCH_AXIS))


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
    groups = in_groups(mesh, fsdp, ("copy", "fsdp"))

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
    check_groups("fsdp", fsdp, mesh.size)


def check_groups(option: str, size: int, devices: int) -> None:
    """Refuses a size of groups that does not divide the devices.

    Raises:
      ValueError: naming the option, and the sizes that do.
    """
    if size < 1 or devices % size:
        allowed = [n for n in range(1, devices + 1) if devices % n == 0]
        raise ValueError(
            f"{option} is {size}, which does not divide {devices} devices; use one of "
            + ", ".join(map(str, allowed))
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
