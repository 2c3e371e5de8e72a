"""How the fused form runs: choices that change its speed and its rounding, never its function."""

from dataclasses import dataclass

from jaxcovid.models.layers import AxisName

# What the kernels for a GPU take at once; pixels and channels of a map must divide by them.
TILE_PIXELS, TILE_CHANNELS = 128, 32
CHUNK_BYTES = 5 * 2**20  # of the largest map of a chunk; a few such maps fit into a CPU's cache


@dataclass(frozen=True)
class Execution:
    """How and where a fused function runs.

    Attributes:
      platform: of the devices, `cpu`, `gpu` or `tpu`: chooses the dense block in training, pooling,
        gradients of convolutions, and on a GPU kernels of our own.
      axis_name: see `models.normalization`.
      chunk_bytes: the batch is taken a few images at a time, so many that their largest map has at
        most as many bytes (at least one image); None takes the whole batch, as accelerators want.
    """

    platform: str
    axis_name: AxisName = None
    chunk_bytes: int | None = None
