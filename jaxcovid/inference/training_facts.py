"""Which facts that have nothing to do with the disease went with the class in a training?

If the images of patients came from another source than those of the others, size, sharpness or a
black border give the class away, and a network may have learned them instead of the lungs (DeGrave
et al. 2021, doi 10.1038/s42256-021-00338-7). The audit of a data set asks for that before a
training. Here a workdir keeps what is needed to ask it of one image that is screened: of the
training images most like it in sharpness, how many have the disease?

The file holds numbers alone. Within a class each column is sorted by itself, so that no row belongs
to an image.
"""

import concurrent.futures
import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxcovid.data.datasets import Record
from jaxcovid.data.decoding import ImageError, colour_of, decode_gray
from jaxcovid.data.labels import Encoder
from jaxcovid.data.picture_facts import FACTS, measure
from jaxcovid.inference.out_of_distribution import MOST_IMAGES
from jaxcovid.metrics.scores import auc
from jaxcovid.runtime.number_files import read_arrays, write_arrays
from jaxcovid.workdir.run import WorkdirError

FILE = "training_facts.npz"
TELLING_AUC = 0.6  # below it a fact says too little about the class to be named
_MOST_NEIGHBOURS, _LEAST_NEIGHBOURS = 50, 10
_LEAST_IMAGES = 20
_MOST_BYTES = 2**20  # of the file, unpacked
_DTYPES = {
    "facts": np.float64,
    "positive": np.bool_,
    "training": np.int64,
    "validation": np.int64,
}

Labelled = tuple[Sequence[Record], Encoder]  # the records of a split, and what makes their targets


class Counts(NamedTuple):
    """Images of a split whose class is known: those of the positive class, and all."""

    positive: int
    total: int

    @property
    def share(self) -> float:
        """Of the positive class."""
        return self.positive / self.total


@dataclass(frozen=True)
class Neighbours:
    """The training images closest to an image in one fact.

    Attributes:
      name: of the fact.
      unit: of its values, empty if they have none.
      value: of the image.
      lowest: of all training images.
      highest: likewise.
      count: of the closest ones; those that are as close as the last of them are among them.
      share: of the positive class among them.
      overall: among all training images.
      auc: how well the fact alone separates the classes in the training split, .5 to 1.
    """

    name: str
    unit: str
    value: float
    lowest: float
    highest: float
    count: int
    share: float
    overall: float
    auc: float

    @property
    def outside(self) -> bool:
        """True if no training image has a value as low, or none has one as high."""
        return not self.lowest <= self.value <= self.highest


@dataclass(frozen=True)
class TrainingFacts:
    """Facts of training images beside the disease.

    Attributes:
      facts: values of `picture_facts.FACTS` of at most 2,000 images, float64 [n, 10].
      positive: bool [n].
      training: images of the whole training split.
      validation: of the validation split.
    """

    facts: np.ndarray
    positive: np.ndarray
    training: Counts
    validation: Counts

    @property
    def prevalence(self) -> float:
        """Share of the positive class in the validation split, on which the temperature is fitted.

        See `calibration.at_prevalence`.
        """
        return self.validation.share

    @functools.cached_property
    def aucs(self) -> np.ndarray:
        """How well each fact alone separates the classes, whichever has the higher values: [10].

        In .5 to 1, as of `sklearn.metrics.roc_auc_score`.
        """
        values = np.array([auc(self.positive, column) for column in self.facts.T])
        return np.maximum(values, 1 - values)

    def neighbours(
        self, gray: np.ndarray, colour: float = 0.0, file_bytes: int | None = None
    ) -> list[Neighbours]:
        """The training images closest to an image, by each fact that separates the classes.

        50 of them, a tenth of the training images where these are fewer, but at least 10. Facts
        with an AUC below .6 are left out. First comes the fact whose share of the positive class
        is farthest from that of all training images.

        Args:
          gray: uint8 [h, w], as the network reads it.
          colour: see `decoding.colour_of`.
          file_bytes: size of the file as it is encoded; None, of DICOM, volumes and arrays, whose
            files are not those of training images, leaves the file size out.
        """
        values = measure(gray, colour, file_bytes)
        told = [
            self._neighbours(column, float(values[column]))
            for column in np.flatnonzero((self.aucs >= TELLING_AUC) & np.isfinite(values)).tolist()
        ]
        return sorted(told, key=lambda each: abs(each.share - each.overall), reverse=True)

    def _neighbours(self, column: int, value: float) -> Neighbours:
        known = self.facts[:, column]
        count = min(_MOST_NEIGHBOURS, max(_LEAST_NEIGHBOURS, known.size // 10))
        distance = np.abs(known - value)
        close = distance <= np.partition(distance, count - 1)[count - 1]
        return Neighbours(
            name=FACTS[column].name,
            unit=FACTS[column].unit,
            value=value,
            lowest=float(known.min()),
            highest=float(known.max()),
            count=int(close.sum()),
            share=float(self.positive[close].mean()),
            overall=self.training.share,
            auc=float(self.aucs[column]),
        )

    def save(self, workdir: Path) -> None:
        """Writes `FILE`.

        Raises:
          OSError: it cannot be written.
        """
        arrays = {
            "facts": self.facts,
            "positive": self.positive,
            "training": np.array(self.training, np.int64),
            "validation": np.array(self.validation, np.int64),
        }
        write_arrays(workdir / FILE, arrays)


def load_training_facts(workdir: Path) -> TrainingFacts | None:
    """The facts of a workdir or of an export; None if it has none.

    A workdir has none if its training was not finished, was of an earlier release, or looked for no
    positive class.

    Raises:
      WorkdirError: the file is damaged, or holds something else than numbers.
    """
    path = workdir / FILE
    if not path.is_file():
        return None
    try:
        arrays = read_arrays(path, _DTYPES, most_bytes=_MOST_BYTES)
        _check(arrays)
    except Exception as error:  # each of its two formats has errors of its own
        raise WorkdirError(
            f"{path} is damaged: {error}; train again, or remove it to go without its facts"
        ) from error
    counts = {split: Counts(*arrays.pop(split).tolist()) for split in ("training", "validation")}
    return TrainingFacts(**arrays, **counts)


def _check(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuses arrays that `TrainingFacts.save` does not write.

    Raises:
      ValueError: naming one.
    """
    n = arrays["positive"].size
    shapes = {"facts": (n, len(FACTS)), "positive": (n,), "training": (2,), "validation": (2,)}
    for name, dtype in _DTYPES.items():
        array = arrays[name]
        if array.dtype != dtype or array.shape != shapes[name]:
            raise ValueError(f"{name} is {array.dtype} {array.shape}")
    if not _LEAST_IMAGES <= n <= MOST_IMAGES:
        raise ValueError(f"{n:,} images")
    if not np.isfinite(arrays["facts"]).all():
        raise ValueError("facts are not finite")
    for split in ("training", "validation"):
        positive, total = arrays[split].tolist()
        if not 0 < positive < total:
            raise ValueError(f"{positive:,} of {total:,} images of {split} are positive")
    if not 0 < arrays["positive"].sum() < n:
        raise ValueError("all images are of one class")


def facts_of_splits(training: Labelled, validation: Labelled) -> TrainingFacts | None:
    """The facts of the readable training images, at most `MOST_IMAGES`.

    Images whose class is not known do not count. Otherwise the images are those that
    `out_of_distribution.detector_of_sources` chooses.

    Returns:
      None of fewer than 20 images, or if a split has no image of one of the classes.
    """
    source, _ = training
    targets, validation_targets = _targets(*training), _targets(*validation)
    order = np.random.default_rng(0).permutation(len(source))
    chosen = order[targets[order] >= 0][:MOST_IMAGES]
    with concurrent.futures.ThreadPoolExecutor() as pool:  # decoding leaves Python's lock
        rows = list(pool.map(lambda index: _measure_record(source, index), chosen.tolist()))
    readable = [row is not None for row in rows]
    positive = targets[chosen[readable]] > 0.5
    counts = [
        Counts(int((each > 0.5).sum()), int((each >= 0).sum()))
        for each in (targets, validation_targets)
    ]
    both = all(0 < count.positive < count.total for count in counts)
    if positive.size < _LEAST_IMAGES or not (both and 0 < positive.sum() < positive.size):
        return None
    facts = np.stack([row for row in rows if row is not None])
    parts = [np.sort(facts[positive == side], axis=0) for side in (True, False)]
    return TrainingFacts(np.concatenate(parts), np.sort(positive)[::-1].copy(), *counts)


def _targets(source: Sequence[Record], encode: Encoder) -> np.ndarray:
    """Targets of the first output, float64 [n]; below 0 where unknown or the record unreadable."""
    targets = np.full(len(source), -1.0)
    for index in range(len(source)):
        with contextlib.suppress(ImageError):
            targets[index] = encode(source[index])[0]
    return targets


def _measure_record(source: Sequence[Record], index: int) -> np.ndarray | None:
    """The facts of a record, see `picture_facts.measure`; None if its image cannot be read."""
    try:
        data = source[index]["image"]
        return measure(decode_gray(data), colour_of(data), len(data))
    except ImageError:
        return None
