"""Devices, the mesh over them, and the placement of batches."""

import importlib.util
import os

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

BATCH_AXIS = "batch"


def make_mesh(devices: int | None = None) -> Mesh:
    """A mesh of one axis, `BATCH_AXIS`, over all devices of all processes, or the first few."""
    chosen = jax.devices()[:devices]
    return jax.make_mesh((len(chosen),), (BATCH_AXIS,), axis_types=(AxisType.Auto,), devices=chosen)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch spread over the mesh."""
    return NamedSharding(mesh, P(BATCH_AXIS))


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, P())


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


def announce_devices() -> None:
    """Logs what the run computes on; warns loudly when an installed GPU back end is not used."""
    devices = jax.devices()
    kinds = sorted({device.device_kind for device in devices})
    logging.info(
        "Running on %d %s device(s): %s; process %d of %d",
        len(devices),
        jax.default_backend(),
        ", ".join(kinds),
        jax.process_index() + 1,
        jax.process_count(),
    )
    plugins = [p for p in ("jax_cuda12_plugin", "jax_cuda13_plugin") if importlib.util.find_spec(p)]
    if plugins and jax.default_backend() == "cpu" and os.environ.get("JAX_PLATFORMS") != "cpu":
        logging.warning(
            "%s\n%s is installed, but JAX found no usable GPU and FELL BACK TO THE CPU: training "
            "will be many times slower.\nCheck `nvidia-smi` and the driver version, or set "
            "JAX_PLATFORMS=cpu if the CPU is meant.\n%s",
            "!" * 88,
            " and ".join(plugins),
            "!" * 88,
        )
