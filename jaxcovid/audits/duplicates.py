"""The same picture twice: exact copies, and copies that were saved, scaled, cropped or brightened.

A pair is suspected if its files are equal; if its perceptual hashes (256 bits) differ in at most 20
and its small copies correlate above .98; or if, where hashes come near, the middle of one matches
the other at some place and scale with a correlation above .97, which finds crops of a few per
cent. On COVID-CT the second rule alone pairs no strangers across splits; 64-bit hashes do, as axial
slices resemble each other. Time grows with the square of the number of images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from jaxcovid.audits.check import FAILED, PASSED, WARNING, Check
from jaxcovid.audits.items import Item
from jaxcovid.data.datasets import Dataset

SAME_BITS, SAME_CORRELATION = 20, 0.98
NEAR_BITS, NEAR_CORRELATION, MATCH_CORRELATION = 72, 0.75, 0.97
_MIDDLE = 0.88  # share of a side that is looked for
_SCALES = np.arange(0.95, 1.051, 0.01)
_ROWS = 512


@dataclass(frozen=True)
class Pair:
    """Two images that may be one.

    Attributes:
      first: index of an item.
      second: index of a later one.
      kind: `same file`, `same picture` or `crop`.
      bits: in which their hashes differ.
      correlation: of the small copies; of a crop, of the middle where it matches best.
    """

    first: int
    second: int
    kind: str
    bits: int
    correlation: float


def find_pairs(items: Sequence[Item], *, groups: Sequence[str] | None = None) -> list[Pair]:
    """Finds all suspected pairs, in the order of the items.

    Args:
      items: all images.
      groups: of each image; only pairs of two groups count. None takes all pairs.
    """
    hashes = np.stack([item.hash for item in items]).view(np.uint64)
    grays = np.stack([cv2.resize(i.small, (64, 64), interpolation=cv2.INTER_AREA) for i in items])
    flat = grays.reshape(len(items), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
    pairs = []
    for i, j, bits in _near(hashes):
        if groups is not None and groups[i] == groups[j]:
            continue
        correlation = float(flat[i] @ flat[j])
        if items[i].sha1 == items[j].sha1:
            pairs.append(Pair(i, j, "same file", bits, correlation))
        elif bits <= SAME_BITS and correlation > SAME_CORRELATION:
            pairs.append(Pair(i, j, "same picture", bits, correlation))
        elif correlation > NEAR_CORRELATION:
            best = max(
                best_match(items[i].small, items[j].small),
                best_match(items[j].small, items[i].small),
            )
            if best > MATCH_CORRELATION:
                pairs.append(Pair(i, j, "crop", bits, best))
    return pairs


def _near(hashes: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Finds pairs whose hashes, uint64 [n, 4], differ in at most `NEAR_BITS`, and in how many."""
    for start in range(0, len(hashes), _ROWS):
        rows = hashes[start : start + _ROWS]
        bits = np.zeros((len(rows), len(hashes) - start), np.uint16)
        for word in range(hashes.shape[1]):
            bits += np.bitwise_count(rows[:, None, word] ^ hashes[None, start:, word])
        for row, column in np.argwhere(np.triu(bits <= NEAR_BITS, 1)):
            yield start + int(row), start + int(column), int(bits[row, column])


def best_match(whole: np.ndarray, part: np.ndarray) -> float:
    """Highest correlation of the middle of `part` anywhere in `whole`, uint8 [n, n] each."""
    side = whole.shape[0]
    middle = round(_MIDDLE * side)
    best = 0.0
    for scale in _SCALES:
        scaled = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        start = (scaled.shape[0] - middle) // 2
        template = scaled[start : start + middle, start : start + middle]
        best = max(best, float(cv2.matchTemplate(whole, template, cv2.TM_CCOEFF_NORMED).max()))
    return best


def check_duplicates(dataset: Dataset, items: Sequence[Item], pairs: Sequence[Pair]) -> list[Check]:
    """Verdicts on the suspected pairs: across splits, across classes, across patients."""

    def labels(item: Item) -> object:
        return item.record.get("label", item.record.get("findings"))

    across_splits = [p for p in pairs if items[p.first].split != items[p.second].split]
    across_classes = [p for p in pairs if labels(items[p.first]) != labels(items[p.second])]
    across_patients = [
        p
        for p in pairs
        if items[p.first].split == items[p.second].split
        and items[p.first].record["patient"] != items[p.second].record["patient"]
    ]
    same = len(pairs) - len(across_splits) - len(across_patients)
    return [
        _verdict("no picture in two splits", FAILED, dataset, items, across_splits),
        _verdict("no picture of two classes", FAILED, dataset, items, across_classes),
        _verdict("no picture of two patients of a split", WARNING, dataset, items, across_patients),
        Check(
            "pictures of one patient and split",
            PASSED,
            f"{same} suspected pairs: neighbouring slices, or the same film twice",
        ),
    ]


def _verdict(
    name: str, verdict: str, dataset: Dataset, items: Sequence[Item], pairs: Sequence[Pair]
) -> Check:
    if not pairs:
        return Check(name, PASSED, f"no suspected pair among {len(items)} images")
    rows = []
    for pair in pairs:
        row = {}
        for side, index in (("first", pair.first), ("second", pair.second)):
            record = items[index].record
            label = f" ({dataset.class_names[record['label']]})" if dataset.class_names else ""
            row[side] = f"{items[index].split}: {record['id']}{label}"
        rows.append({**row, "kind": pair.kind, "correlation": round(pair.correlation, 4)})
    return Check(name, verdict, f"{len(pairs)} suspected pairs", rows)
