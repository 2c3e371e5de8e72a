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
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


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


def exchange_time(traffic: Traffic, chip: Chip, platform: str, size: int) -> float:
    """Seconds that the collectives of a step take on so many chips, if nothing hides them.

    Each is a ring: all but one part of its bytes leave a chip twice, at the rate of the slowest
    link on the way, and each has its latency.
    """
    if size == 1:
        return 0.0
    rate = chip.link_rate if size <= chip.group else chip.network_rate
    latency = FIRST_LATENCY[platform] + DOUBLING_LATENCY[platform] * (math.log2(size) - 1)
    return sum(
        collective.runs * (2 * (size - 1) / size * collective.size / rate + latency)
        for collective in traffic.collectives
    )


def scaling(
    traffic: Traffic, chip: Chip, platform: str, *, bound: float, images: float
) -> list[Mapping[str, Any]]:
    """The expected speed on 1 to 256 chips, each with so many images a step.

    The collectives of a data-parallel step stay the same: their bytes do not grow with the chips.
    """
    rows = []
    for size in SIZES:
        exchange = exchange_time(traffic, chip, platform, size)
        images_per_s = size * images / (bound + exchange)
        rows.append(
            {
                "devices": size,
                "exchange_s": exchange,
                "images_per_s": images_per_s,
                "efficiency": bound / (bound + exchange),
            }
        )
    return rows
