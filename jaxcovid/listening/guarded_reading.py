"""A network for which pictures are decoded in processes of their own.

A file that crashes a decoder, or takes too much time or memory, ends such a process and is an image
with an error; the program goes on.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from jaxcovid.data.sight import Sight
from jaxcovid.inference.network import Network
from jaxcovid.serving.decoding_pool import DecoderPool


@dataclass(frozen=True)
class GuardedSight(Sight):
    """See `Sight`.

    Attributes:
      pool: decodes.
    """

    pool: DecoderPool = field(kw_only=True)

    def read_gray(self, data: bytes) -> np.ndarray:
        """See `Sight.read_gray`; errors of the process are an `ImageError` too."""
        sight = Sight(self.modality, self.window, self.hu_offset)
        gray: np.ndarray = asyncio.run(self.pool.run(_read_gray, sight, data))
        return gray


def _read_gray(sight: Sight, data: bytes) -> np.ndarray:
    return sight.read_gray(data)


def _start() -> None:
    """Is called in the first process, and starts it."""


class _Guarded:
    """A network that sees through a `GuardedSight`; all else is as it was."""

    def __init__(self, network: Network, pool: DecoderPool) -> None:
        sight = network.sight
        self._network = network
        self.sight = GuardedSight(sight.modality, sight.window, sight.hu_offset, pool=pool)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


def guard(network: Network, pool: DecoderPool) -> Network:
    """The network, for which a pool decodes files of one picture.

    Slices of volumes (NIfTI, .npy, DICOM of several frames) are read by the program itself.

    Raises:
      ImageError: no process can be started.
    """
    # Now, so that who cannot start one hears of it before anything is taken.
    asyncio.run(pool.run(_start))
    return cast(Network, _Guarded(network, pool))
