"""What the contestants of the input pipeline share: images in memory, the five steps, rounds.

All read encoded images that are already in memory, and take them in a random order.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
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


# (images, batch=, size=, workers=) -> batches without end
MakeBatches = Callable[..., Iterator[Any]]


def make_parser(description: str) -> argparse.ArgumentParser:
    """The flags of every contestant."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--source", type=Path, required=True, help="a folder of images")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=0)
    return parser


def serve(make: MakeBatches, arguments: argparse.Namespace) -> None:
    """Warms up and serves rounds of batches; the arguments are those of `make_parser`."""
    cv2.setNumThreads(0)
    images: Sequence[bytes] = read_images(arguments.source)
    batches = make(images, batch=arguments.batch, size=arguments.size, workers=arguments.workers)
    # A step is about an epoch: one of a few batches would find them prepared while others ran.
    batches_per_step = math.ceil(len(images) / arguments.batch)

    def run(steps: int) -> None:
        for _ in range(steps * batches_per_step):
            next(batches)

    run(1)
    facts = {
        "mode": "input",
        "images": len(images),
        "images_per_step": batches_per_step * arguments.batch,
        "batch": arguments.batch,
        "size": arguments.size,
        "workers": arguments.workers,
    }
    rounds.serve(facts, run, lambda: {})
