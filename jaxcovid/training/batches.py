"""Training batches on the devices."""

from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from jaxcovid.data.device_preprocessing import Unpacker
from jaxcovid.data.pipeline import Batch
from jaxcovid.runtime.sharding import place_batch


class DeviceBatches(Iterator[dict[str, jax.Array]]):
    """Global batches: `image` float32 [b, h, w, 1], `target` float32 [b, outputs], maybe `masks`.

    Attributes:
      replaced: how many of this process's rows took the place of a record that cannot be read.
    """

    def __init__(
        self, batches: Iterator[Batch], mesh: Mesh, unpack: Unpacker | None = None
    ) -> None:
        """Wraps the batches of this process.

        Args:
          batches: see `pipeline.train_batches`.
          mesh: the devices.
          unpack: a `device_preprocessing.Unpacker`; None where the host preprocesses.
        """
        self._batches, self._mesh, self._unpack = batches, mesh, unpack
        self._first: dict[str, jax.Array] | None = None
        self.replaced = 0

    def peek(self) -> dict[str, jax.Array]:
        """The next batch, which the next call of `next` gives too; once, before the first."""
        self._first = next(self)
        return self._first

    def __next__(self) -> dict[str, jax.Array]:
        if self._first is not None:
            batch, self._first = self._first, None
            return batch
        rows = next(self._batches)
        self.replaced += int(rows.pop("replaced").sum())
        if self._unpack is None:
            return place_batch(rows, self._mesh)
        ready = {name: rows.pop(name) for name in ("target", "masks") if name in rows}
        return {"image": self._unpack(rows), **place_batch(ready, self._mesh)}
