"""Accelerators that programs are compiled for without having one, and what is published of them."""

import importlib.util
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

import jax
from jax.experimental import topologies

_TERA, _GIGA = 10**12, 10**9


@dataclass(frozen=True)
class Chip:
    """Published figures of a chip.

    Attributes:
      name: as its maker calls it.
      memory_bytes: of device memory.
      memory_rate: bytes a second of device memory.
      bfloat16_rate: floating-point operations a second of products in bfloat16, dense.
      float32_rate: likewise of float32 inputs at JAX's default precision: TF32 on a GPU, bfloat16
        on a TPU.
      link_rate: bytes a second that a chip sends to the others of its group, all links together.
      group: chips that are linked so: those of a host with GPUs, those of a TPU slice.
      network_rate: bytes a second that a chip sends beyond its group; its share of the host's.
    """

    name: str
    memory_bytes: int
    memory_rate: float
    bfloat16_rate: float
    float32_rate: float
    link_rate: float
    group: int
    network_rate: float


# Data sheets of NVIDIA (network: 8 ports of 400 Gb/s a host of 8, A100 200 Gb/s) and Google Cloud's
# pages on TPU versions (network: 200 Gb/s a host of 4 chips).
CHIPS = {
    "gpu:a100": Chip(
        "NVIDIA A100 80GB SXM",
        80 * _GIGA,
        2.039 * _TERA,
        312 * _TERA,
        156 * _TERA,
        300 * _GIGA,
        8,
        25 * _GIGA,
    ),
    "gpu:h100": Chip(
        "NVIDIA H100 80GB SXM",
        80 * _GIGA,
        3.35 * _TERA,
        989 * _TERA,
        495 * _TERA,
        450 * _GIGA,
        8,
        50 * _GIGA,
    ),
    "gpu:h200": Chip(
        "NVIDIA H200 141GB SXM",
        141 * _GIGA,
        4.8 * _TERA,
        989 * _TERA,
        495 * _TERA,
        450 * _GIGA,
        8,
        50 * _GIGA,
    ),
    "tpu:v5e": Chip(
        "TPU v5e",
        16 * _GIGA,
        0.819 * _TERA,
        197 * _TERA,
        197 * _TERA,
        200 * _GIGA,
        256,
        6.25 * _GIGA,
    ),
    "tpu:v5p": Chip(
        "TPU v5p",
        95 * _GIGA,
        2.765 * _TERA,
        459 * _TERA,
        459 * _TERA,
        600 * _GIGA,
        8960,
        6.25 * _GIGA,
    ),
    "tpu:v6e": Chip(
        "TPU v6e",
        32 * _GIGA,
        1.64 * _TERA,
        918 * _TERA,
        918 * _TERA,
        448 * _GIGA,
        256,
        6.25 * _GIGA,
    ),
}
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # the devices are descriptions; nothing runs on them
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclass(frozen=True)
class Target:
    """What a program is compiled for.

    Attributes:
      platform: `gpu` or `tpu`.
      kind: key of `CHIPS`.
      topology: number of GPUs of a host, or sides of a TPU slice such as `4x4`.
      slices: hosts with GPUs, or slices of TPUs.
    """

    platform: str
    kind: str
    topology: str
    slices: int = 1

    @property
    def chip(self) -> Chip:
        """Its published figures."""
        return CHIPS[self.kind]

    @property
    def size(self) -> int:
        """Number of chips."""
        return self.slices * math.prod(map(int, self.topology.split("x")))

    def __str__(self) -> str:
        several = f":{self.slices}" if self.slices > 1 else ""
        return f"{self.kind}:{self.topology}{several}"


def parse_target(text: str) -> Target:
    """A target from text such as `gpu:h100:8` or `tpu:v5e:4x4`, or `tpu:v5e:4x4:2` for two slices.

    Raises:
      ValueError: no such target; names those that there are.
    """
    number = "[1-9][0-9]*"
    match = re.fullmatch(rf"(\w+:\w+):({number}(?:x{number})*)(?::({number}))?", text)
    if not match or match[1] not in CHIPS:
        raise ValueError(
            f"target {text!r} is unknown; use one of {', '.join(CHIPS)} with a number of GPUs or "
            "the sides of a TPU slice, such as gpu:h100:8 or tpu:v5e:4x4, and, of several hosts of "
            "GPUs or slices of TPUs, their number behind it: gpu:h100:8:2 or tpu:v5e:4x4:2"
        )
    kind, topology, slices = match.groups()
    platform = kind.partition(":")[0]
    if platform == "gpu" and "x" in topology:
        raise ValueError(f"target {text!r}: GPUs have a number, such as {kind}:8")
    return Target(platform, kind, topology, int(slices or 1))


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Variables of a process that compiles for a target, beside those that it inherits."""
    flags = f"{inherited.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"  # needs the GPU itself
    return {**inherited, **_ENVIRONMENT, "XLA_FLAGS": flags.strip()}


def devices_of(target: Target) -> list[jax.Device]:
    """Descriptions of the chips, which programs compile for.

    Raises:
      ValueError: the compiler of the platform is not installed, or knows no such topology.
    """
    version = metadata.version("jax")
    needed, extra = {"gpu": ("jax_plugins.xla_cuda13", "cuda13"), "tpu": ("libtpu", "tpu")}[
        target.platform
    ]
    if not _is_installed(needed):
        raise ValueError(
            f"to compile for {target}, the compiler for a {target.platform.upper()} is missing; "
            f"install it, best in an environment of its own: pip install 'jax[{extra}]=={version}'"
        )
    try:
        if target.platform == "tpu":
            several = {"num_slices": target.slices} if target.slices > 1 else {}
            name = target.kind.removeprefix("tpu:") + ":" + target.topology
            topology = topologies.get_topology_desc(name, "tpu", **several)
        else:
            topology = topologies.get_topology_desc(
                platform="cuda",
                topology=f"{target.slices}x1x{target.topology}",
                target_config=_gpu_description(target.kind),
            )
    except (ValueError, NotImplementedError, jax.errors.JaxRuntimeError) as error:
        raise ValueError(f"the compiler knows no target {target}: {error}") from error
    return list(topology.devices)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


# What XLA asks of a GPU before it compiles for it: properties that CUDA reports of the device.
_MULTIPROCESSORS = {"gpu:a100": 108, "gpu:h100": 132, "gpu:h200": 132}
_HOPPER = {
    "shared_memory_per_core": 233472,
    "shared_memory_per_block_optin": 232448,
    "fpus_per_core": 128,
    "l2_cache_size": 52428800,
    "clock_rate_ghz": 1.98,
}
_AMPERE = {
    "shared_memory_per_core": 167936,
    "shared_memory_per_block_optin": 166912,
    "fpus_per_core": 64,
    "l2_cache_size": 41943040,
    "clock_rate_ghz": 1.41,
}
_EVERY_GPU = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "threads_per_core_limit": 2048,
    "shared_memory_per_block": 49152,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
    "block_dim_limit_x": 2147483647,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "thread_dim_limit_x": 1024,
    "thread_dim_limit_y": 1024,
    "thread_dim_limit_z": 64,
}


def _gpu_description(kind: str) -> str:
    """A GPU as XLA's text format of a target configuration."""
    chip, ampere = CHIPS[kind], kind == "gpu:a100"
    properties = {
        **_EVERY_GPU,
        **(_AMPERE if ampere else _HOPPER),
        "core_count": _MULTIPROCESSORS[kind],
        "memory_bandwidth": int(chip.memory_rate),
        "device_memory_size": chip.memory_bytes,
    }
    lines = " ".join(f"{name}: {value}" for name, value in properties.items())
    capability = "major: 8" if ampere else "major: 9 feature_extension: ACCELERATED_FEATURES"
    return (
        f"gpu_device_info {{ {lines} cuda_compute_capability {{ {capability} }} }} "
        f'platform_name: "CUDA" device_description_str: "{chip.name}" '
        "runtime_version { major: 13 } dnn_version_info { major: 9 minor: 10 }"
    )
