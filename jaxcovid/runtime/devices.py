"""What is odd about the devices of this machine."""

import importlib.util
import os
from pathlib import Path

import jax
from absl import logging


def warn_of_cpu() -> None:
    """Warns loudly when an installed GPU back end is not used."""
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


def silence_libtpu() -> None:
    """Keeps an installed libtpu quiet where there is no TPU; call it before JAX looks for devices.

    It asks for what only the host of a TPU has, and complains on stderr if these are not set.
    """
    has_tpu = any(Path("/dev").glob("accel*")) or any(Path("/dev/vfio").glob("[0-9]*"))
    if importlib.util.find_spec("libtpu") and not has_tpu:
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
