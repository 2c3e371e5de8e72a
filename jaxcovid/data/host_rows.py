"""The rows of each global batch that one host prepares."""

from typing import Any

import grain


class HostRows(grain.MapDataset):
    """Takes `rows` of every `batch_size` elements, from `offset` on: one host's contiguous share.

    Contiguous, so that a device sees the same rows for any number of processes.
    """

    def __init__(
        self, parent: grain.MapDataset, *, rows: int, batch_size: int, offset: int
    ) -> None:
        super().__init__(parent)
        self._rows, self._batch_size, self._offset = rows, batch_size, offset

    def __len__(self) -> int:
        return len(self._parent) // self._batch_size * self._rows

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        batch, row = divmod(index, self._rows)
        return self._parent[batch * self._batch_size + self._offset + row]
