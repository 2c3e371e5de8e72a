"""What the audits look at: everything about an image that needs no network."""

import collections
import concurrent.futures
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import imagehash
import numpy as np
import tqdm
from PIL import Image

from jaxcovid.data.datasets import Dataset, Record
from jaxcovid.data.decoding import colour_of, decode_gray
from jaxcovid.data.picture_facts import border, shrink
from jaxcovid.data.structures import FEATURES

HASH_SIZE = 16  # of the perceptual hash: 256 bits


@dataclass(frozen=True)
class Item:
    """One image.

    Attributes:
      split: name of its split.
      record: of the data set, without pixels.
      sha1: of the encoded bytes.
      hash: perceptual hash, uint8 [32] of packed bits.
      small: gray, uint8 [128, 128].
      file: facts of the file and its pixels by group, numbers and texts.
    """

    split: str
    record: Mapping[str, Any]
    sha1: str
    hash: np.ndarray
    small: np.ndarray
    file: Mapping[str, Mapping[str, float | str]]


def read_items(dataset: Dataset) -> list[Item]:
    """Reads all images of a data set once."""
    sources = [(split, dataset.source(split)) for split in dataset.split_sizes]
    places = [(split, source, i) for split, source in sources for i in range(len(source))]
    items = []
    # Decoding leaves Python's lock; a few at a time, so that not all bytes are held at once.
    with concurrent.futures.ThreadPoolExecutor() as executor:
        coming: collections.deque[Any] = collections.deque()
        for split, source, i in tqdm.tqdm(
            places, desc="Reading images", unit=" images", leave=False, disable=None
        ):
            coming.append(executor.submit(read_item, split, source[i]))
            if len(coming) > 64:
                items.append(coming.popleft().result())
        items += [future.result() for future in coming]
    return items


def read_item(split: str, record: Record) -> Item:
    """Reads one image: its copies, hashes and facts."""
    data = record["image"]
    gray = decode_gray(data)
    small = shrink(gray)
    hashed = imagehash.phash(Image.fromarray(gray), hash_size=HASH_SIZE).hash
    kept = {k: v for k, v in record.items() if k not in ("image", *FEATURES.values())}
    return Item(
        split=split,
        record=kept,
        sha1=hashlib.sha1(data, usedforsecurity=False).hexdigest(),
        hash=np.packbits(hashed.ravel()),
        small=small,
        file=_facts(data, gray, small),
    )


def _facts(data: bytes, gray: np.ndarray, small: np.ndarray) -> dict[str, dict[str, float | str]]:
    header = Image.open(io.BytesIO(data))
    width, height = header.size
    red, green, blue = np.asarray(header.convert("RGB").resize((64, 64)), float).mean((0, 1))
    return {
        "format": {"format": header.format or "", "mode": header.mode},
        "size": {
            "log width": float(np.log(width)),
            "log height": float(np.log(height)),
            "log aspect": float(np.log(width / height)),
            "log bytes per pixel": float(np.log(len(data) / (width * height))),
        },
        "colour": {"colour": colour_of(data), "red": red - green, "blue": blue - green},
        "gray values": {
            "mean": float(gray.mean()),
            "deviation": float(gray.std()),
            **{
                f"quantile {q}": float(value)
                for q, value in zip(
                    (0.05, 0.25, 0.5, 0.75, 0.95),
                    np.quantile(gray, (0.05, 0.25, 0.5, 0.75, 0.95)),
                    strict=True,
                )
            },
        },
        "border": {f"border {i}": float(v) for i, v in enumerate(border(small))},
    }
