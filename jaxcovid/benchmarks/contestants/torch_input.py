"""The five steps behind PyTorch's DataLoader, as a contestant.

python -m jaxcovid.benchmarks.contestants.torch_input --source=COVID-CT/Images-processed
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from jaxcovid.benchmarks.contestants import encoded_images
from jaxcovid.benchmarks.contestants.encoded_images import five_steps


class _Images:
    """Images by index, as PyTorch's DataLoader wants them."""

    def __init__(self, images: Sequence[bytes], size: int) -> None:
        self._images, self._size = images, size

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        random = np.random.default_rng(index)
        return five_steps(self._images[index], random, size=self._size), 0


def batches(images: Sequence[bytes], *, batch: int, size: int, workers: int) -> Iterator[Any]:
    """Batches of PyTorch's DataLoader, its workers kept from epoch to epoch."""
    loader = DataLoader(
        _Images(images, size),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


if __name__ == "__main__":
    encoded_images.serve(batches, encoded_images.make_parser(__doc__).parse_args())
