"""The input pipeline as a contestant, and what it is compared with; see `rounds`.

    python -m jaxcovid.benchmarks.input grain --source=COVID-CT/Images-processed --workers=2

All read encoded images that already lie in memory, and take them in a random order:

  - `grain`: this project's pipeline, with its checks of every file;
  - `opencv`: nothing but the five steps in a loop, on one core;
  - `torch`: the same five steps behind PyTorch's DataLoader.
"""

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from jaxcovid.benchmarks import rounds

_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_images(folder: Path) -> list[bytes]:
    """All encoded images below a folder.

    Raises:
      FileNotFoundError: there are none.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"no {', '.join(_SUFFIXES)} below {folder}")
    return [path.read_bytes() for path in paths]


def five_steps(encoded: bytes, random: np.random.Generator, *, size: int) -> np.ndarray:
    """The paper's steps as one writes them with OpenCV: float32 [size, size, 1]."""
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)
    height, width = image.shape
    angle_deg = random.uniform(-15, 15)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle_deg, 1.0)
    matrix[:, 2] += random.uniform(-0.05, 0.05, 2) * (width, height)
    image = cv2.warpAffine(image, matrix, (width, height), borderValue=128)
    image = cv2.equalizeHist(image)
    shrinks = min(height, width) >= size
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    image = cv2.resize(image, (size, size), interpolation=mode)
    image = cv2.GaussianBlur(image, (3, 3), 0).astype(np.float32)
    return ((image - image.mean()) / image.std())[..., None]


def grain_batches(images: Sequence[bytes], *, batch: int, size: int, workers: int) -> Iterator[Any]:
    """This project's training batches."""
    from absl import flags

    from jaxcovid.data.pipeline import Loading, train_batches
    from jaxcovid.data.preprocessing import Preprocessing

    flags.FLAGS.mark_as_parsed()  # grain's worker processes read theirs
    source = [{"image": image, "id": str(i)} for i, image in enumerate(images)]
    loading = Loading(preprocessing=Preprocessing(size=size), batch_size=batch, workers=workers)
    return train_batches(source, loading, target=_target, seed=0)


def _target(record: Any) -> np.ndarray:
    """Any: what is timed does not depend on it."""
    del record
    return np.zeros(1, np.float32)


def opencv_batches(
    images: Sequence[bytes], *, batch: int, size: int, workers: int
) -> Iterator[Any]:
    """Batches of a plain loop; `workers` is ignored."""
    del workers
    random = np.random.default_rng(0)
    while True:
        chosen = random.integers(0, len(images), batch)
        yield np.stack([five_steps(images[i], random, size=size) for i in chosen])


class _TorchImages:
    """Images by index, as PyTorch's DataLoader wants them."""

    def __init__(self, images: Sequence[bytes], size: int) -> None:
        self._images, self._size = images, size

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        random = np.random.default_rng(index)
        return five_steps(self._images[index], random, size=self._size), 0


def torch_batches(images: Sequence[bytes], *, batch: int, size: int, workers: int) -> Iterator[Any]:
    """Batches of PyTorch's DataLoader, its workers kept from epoch to epoch."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        _TorchImages(images, size),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


_BATCHES = {"grain": grain_batches, "opencv": opencv_batches, "torch": torch_batches}


def main() -> None:
    """Warms up and serves rounds of batches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=_BATCHES)
    parser.add_argument("--source", type=Path, required=True, help="a folder of images")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    images = read_images(arguments.source)
    make = _BATCHES[arguments.kind]
    batches = make(images, batch=arguments.batch, size=arguments.size, workers=arguments.workers)

    # A step is about an epoch: one of a few batches would find them prepared while others ran.
    batches_of_step = math.ceil(len(images) / arguments.batch)

    def run(steps: int) -> None:
        for _ in range(steps * batches_of_step):
            next(batches)

    run(1)
    facts = {
        "mode": "input",
        "images": len(images),
        "images_per_step": batches_of_step * arguments.batch,
        "batch": arguments.batch,
        "size": arguments.size,
        "workers": arguments.workers,
    }
    rounds.serve(facts, run, lambda: {})


if __name__ == "__main__":
    main()
