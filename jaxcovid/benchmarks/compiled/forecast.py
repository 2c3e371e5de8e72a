"""How fast a compiled program can be at best on a target, and how that changes with its size.

Calculated, not measured: from the traffic of the program and the published rates of the chip.
"""

import math
from collections.abc import Mapping
from typing import Any

from jaxcovid.benchmarks.compiled.targets import Chip
from jaxcovid.benchmarks.compiled.traffic import Traffic

# Seconds of a small all-reduce among two chips, and of each doubling of their number: what
# published benchmarks of NCCL and of TPU slices show, rounded up.
FIRST_LATENCY = {"gpu": 15e-6, "tpu": 4e-6}
DOUBLING_LATENCY = {"gpu": 5e-6, "tpu": 1e-6}
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # chips of one slice
SLICES = (1, 2, 4, 8, 16)
Shape = tuple[int, int]  # slices, and chips of each


def lower_bound(traffic: Traffic, chip: Chip, *, flops: float, dtype: str) -> float:
    """Seconds below which a step cannot fall: its memory traffic, or its arithmetic.

    Args:
      traffic: of the program on one device.
      chip: that runs it.
      flops: floating-point operations of a device.
      dtype: of the products.
    """
    rate = chip.bfloat16_rate if dtype == "bfloat16" else chip.float32_rate
    return max(traffic.bytes_moved / chip.memory_rate, flops / rate)


def exchange_time(
    traffic: Traffic, chip: Chip, platform: str, *, compiled: Shape, wanted: Shape
) -> tuple[float, float]:
    """Seconds that the collectives of a step take, and of these what nothing hides.

    Each is a ring, at the rate of the slowest link on the way, and each has its latency. It is
    hidden for as long as the kernels take that are scheduled beside it.

    Args:
      traffic: of a program.
      chip: that runs it.
      platform: `gpu` or `tpu`.
      compiled: slices that the program is compiled for, and chips of each.
      wanted: those that the time is wanted of.
    """
    taken = exposed = 0.0
    for collective in traffic.collectives:
        slices, chips = collective.spans(compiled)
        slices = wanted[0] if slices == compiled[0] else slices
        chips = wanted[1] if chips == compiled[1] else min(chips, wanted[1])
        size = slices * chips
        if size == 1:
            continue
        rate = chip.link_rate if slices == 1 and size <= chip.group else chip.network_rate
        latency = FIRST_LATENCY[platform] + DOUBLING_LATENCY[platform] * (math.log2(size) - 1)
        seconds = collective.sent(size) / rate + latency
        taken += collective.runs * seconds
        exposed += collective.runs * max(0.0, seconds - collective.beside / chip.memory_rate)
    return taken, exposed


def scaling(
    traffic: Traffic, chip: Chip, platform: str, *, compiled: Shape, bound: float, images: float
) -> list[Mapping[str, Any]]:
    """The expected speed on more and fewer chips, each with so many images a step.

    The collectives of a data-parallel step stay the same: their bytes do not grow with the chips.
    A program for one slice is taken to 1 to 256 chips, one for several to 1 to 16 such slices.
    """
    shapes = [(1, size) for size in SIZES]
    if compiled[0] > 1:
        shapes = [(slices, compiled[1]) for slices in SLICES]
    rows = []
    for wanted in shapes:
        exchange, exposed = exchange_time(traffic, chip, platform, compiled=compiled, wanted=wanted)
        size = math.prod(wanted)
        rows.append(
            {
                "devices": size,
                "exchange_s": exchange,
                "exposed_s": exposed,
                "images_per_s": size * images / (bound + exposed),
                "efficiency": bound / (bound + exposed),
            }
        )
    return rows
