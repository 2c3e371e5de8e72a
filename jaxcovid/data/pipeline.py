"""The input pipeline: records of a data set -> batches of network input, with grain.

Everything is a function of (seed, step): a resumed run slices to its step and sees what an
uninterrupted one sees, for any number of worker processes and hosts.
"""

import contextlib
import functools
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import grain
import numpy as np
from absl import logging

from jaxcovid.data import lung_focus
from jaxcovid.data.ablations import Ablation
from jaxcovid.data.datasets import Record
from jaxcovid.data.decoding import decode_gray
from jaxcovid.data.device_preprocessing import pack, pack_batch
from jaxcovid.data.host_rows import HostRows
from jaxcovid.data.image_error import ImageError
from jaxcovid.data.labels import Encoder
from jaxcovid.data.masks import decode_masks
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.data.sampling import Stratum, endless_order

PREPROCESS_ON = ("host", "device")
BAD_RECORDS = ("stop", "skip")
Batch = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How records become batches, in training and in evaluation.

    Attributes:
      preprocessing: the five steps.
      batch_size: images of the global batch; every process gets its contiguous share of rows.
      ablation: alters every image, but no mask, before the five steps; None alters nothing.
      masks: take the masks of the records along.
      views: make two views of each image, changed at random, in evaluation too; without masks.
      workers: worker processes; 0 prepares batches in threads of this process.
      process_index: this process among `process_count`.
      process_count: processes that share the global batch.
    """

    preprocessing: Preprocessing
    batch_size: int
    ablation: Ablation | None = None
    masks: bool = False
    views: bool = False
    workers: int = 0
    process_index: int = 0
    process_count: int = 1


@contextlib.contextmanager
def _naming(record: Record) -> Iterator[None]:
    """Puts the id of a record before what is wrong with it."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{record['id']}: {error}") from error


def _decode(record: Record, loading: Loading) -> tuple[np.ndarray, np.ndarray | None]:
    """What is shown of a record: its gray image uint8 [h, w], and its masks if wanted."""
    gray = record["gray"] if "gray" in record else decode_gray(record["image"])
    masks = decode_masks(record, gray.shape) if loading.masks else None
    if loading.ablation:
        gray = loading.ablation(gray, record)
    return lung_focus.show(record, gray, masks)


def _prepare(
    image: np.ndarray,
    masks: np.ndarray | None,
    loading: Loading,
    rng: np.random.Generator | None = None,
) -> Batch:
    """Takes the five steps: `image`, or views of it, and `masks` if there are any."""
    preprocessing = loading.preprocessing
    if loading.views:
        return {"image": np.stack([preprocessing(image, rng) for _ in range(2)])}
    if masks is None:
        return {"image": preprocessing(image, rng)}
    image, masks = preprocessing.with_masks(image, masks, rng)
    return {"image": image, "masks": masks}


def _prepare_record(
    record: Record, loading: Loading, rng: np.random.Generator | None = None
) -> Batch:
    """What the network is shown of a record: of a volume its slices, changed alike, as channels."""
    if "slices" not in record:
        image, masks = _decode(record, loading)
        return _prepare(image, masks, loading, rng)
    seed, images = rng and rng.integers(2**32), []
    for each in record["slices"]:
        with _naming(each):
            image, _ = _decode(each, loading)
        images.append(loading.preprocessing(image, rng and np.random.default_rng(seed)))
    return {"image": np.concatenate(images, axis=-1)}


@functools.cache  # once for each process and record
def _warn_of(index: int, error: str) -> None:
    logging.warning("Record %d is replaced by the next one: %s", index, error)


@dataclass(frozen=True)
class _LoadForTraining(grain.transforms.RandomMap):
    """Takes all five steps, or packs what the device needs to take them.

    grain's generator depends on the seed and the position only.
    """

    source: Sequence[Record]
    target: Encoder
    loading: Loading
    on_device: bool
    skip: bool

    def random_map(self, position: int, rng: np.random.Generator) -> Batch:
        if not self.skip:
            return self._load(position, rng)
        for index in (*range(position, len(self.source)), *range(position)):
            try:
                return self._load(index, rng) | {"replaced": np.bool_(index != position)}
            except ImageError as error:
                _warn_of(index, str(error))
        raise ImageError("no record of the training split can be read")

    def _load(self, index: int, rng: np.random.Generator) -> Batch:
        record = self.source[index]
        with _naming(record):
            loaded = {"target": self.target(record), "replaced": np.bool_(False)}
            if self.on_device:
                image, masks = _decode(record, self.loading)
                five_steps = self.loading.preprocessing
                return loaded | pack(image, preprocessing=five_steps, rng=rng, masks=masks)
            return loaded | _prepare_record(record, self.loading, rng)


@dataclass(frozen=True)
class _LoadForEvaluation(grain.transforms.Map):
    """Takes the steps that are not random; positions past the end repeat the last record.

    Views are random, but the same each time.
    """

    source: Sequence[Record]
    loading: Loading

    def map(self, position: int) -> Batch:
        last = len(self.source) - 1
        record = self.source[min(position, last)]
        rng = np.random.default_rng(position) if self.loading.views else None
        with _naming(record):
            prepared = _prepare_record(record, self.loading, rng)
        return prepared | {"index": np.int64(position), "mask": np.bool_(position <= last)}


def _batches(
    dataset: grain.MapDataset, loading: Loading, *, packed: bool = False
) -> grain.MapDataset:
    """Elements of the global order -> this host's rows of each global batch."""
    size, count = loading.batch_size, loading.process_count
    if size % count:
        raise ValueError(
            f"batch_size {size} is not divisible by {count} processes; "
            f"use {-(-size // count) * count}"
        )
    rows = size // count
    if count > 1:
        offset = loading.process_index * rows
        dataset = HostRows(dataset, rows=rows, batch_size=size, offset=offset)
    return dataset.batch(rows, batch_fn=pack_batch if packed else None)


def _init_worker(worker_index: int, worker_count: int) -> None:
    """Keeps a worker single-threaded, and ends it when its parent was killed."""
    del worker_index, worker_count
    cv2.setNumThreads(0)
    # Not os.getppid(): the parent may have been killed before the worker came this far.
    parent = multiprocessing.parent_process().pid

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _iterate(dataset: grain.MapDataset, workers: int) -> Iterator[Batch]:
    """Iterates over batches in order, made ahead by worker processes, or threads if 0."""
    if workers < 0:
        raise ValueError(f"workers is {workers}; it must be 0 (threads) or more (processes)")
    cv2.setNumThreads(0)
    ahead = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    batches = dataset.to_iter_dataset(ahead)
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        batches = batches.mp_prefetch(options, worker_init_fn=_init_worker)
    return iter(batches)


def check_options(preprocess_on: str, bad_records: str) -> None:
    """Refuses options of `train_batches` that do not exist.

    Raises:
      ValueError: naming those that do.
    """
    if preprocess_on not in PREPROCESS_ON:
        raise ValueError(
            f"preprocess_on is {preprocess_on!r}; use one of {', '.join(PREPROCESS_ON)}"
        )
    if bad_records not in BAD_RECORDS:
        raise ValueError(f"bad_records is {bad_records!r}; use one of {', '.join(BAD_RECORDS)}")


def train_batches(
    source: Sequence[Record],
    loading: Loading,
    *,
    target: Encoder,
    seed: int,
    start_step: int = 0,
    preprocess_on: str = "host",
    bad_records: str = "stop",
    strata: Sequence[Stratum] = (),
) -> Iterator[Batch]:
    """Makes endless training batches, reshuffled every epoch, from step `start_step` on.

    Args:
      source: records of the training split, see `datasets.Source` and `image_cache.CachedSource`.
      loading: how they become batches; the random step draws from (seed, position).
      target: what the network should say of a record; worker processes need to pickle it.
      seed: of shuffling and augmentation.
      start_step: index of the first batch.
      preprocess_on: `host`, or `device` for batches that `device_preprocessing.Unpacker` turns
        into images.
      bad_records: `stop` at a record that cannot be used, or `skip` it: the next usable one
        replaces it, the same in every run.
      strata: records with a share of every batch, see `sampling.endless_order`.

    Returns:
      An iterator over `image` float32 [rows, size, size, 1], mean 0 and std 1, or what
      `device_preprocessing.pack_batch` gives, `target` float32 [rows, outputs], `replaced` bool
      [rows], True for a record that replaces another, and with `loading.masks` also `masks` uint8
      [rows, size, size, 2], 0, 1 or UNKNOWN (see `masks`). With `loading.views` an image is float32
      [2, size, size, 1].

    Raises:
      ValueError: the batch does not divide over the processes, the split is empty, or an option is
        unknown.
      ImageError: from the iterator, names a record that cannot be used.
    """
    if not len(source):
        raise ValueError("the training split is empty")
    check_options(preprocess_on, bad_records)
    # The random step comes before the host's rows are taken, so that hosts draw different
    # numbers; repeat too, so that a split that does not divide keeps the hosts together.
    on_device = preprocess_on == "device"
    load = _LoadForTraining(
        source, target, loading, on_device=on_device, skip=bad_records == "skip"
    )
    dataset = endless_order(len(source), seed=seed, strata=strata).random_map(load)
    batches = _batches(dataset, loading, packed=on_device)
    return _iterate(batches[start_step:], loading.workers)


def eval_batches(source: Sequence[Record], loading: Loading) -> Iterator[Batch]:
    """Makes one pass over a split in order, padded to as many full batches in every process.

    Args:
      source: records of the split.
      loading: how they become batches; the random step is left out.

    Returns:
      An iterator over `image` float32 [rows, size, size, 1], `index` int64 [rows], the record's
      position in `source`, `mask` bool [rows], False for padding, and with `loading.masks` also
      `masks`, see `train_batches`, as for `loading.views`.

    Raises:
      ValueError: the batch does not divide over the processes, or the split is empty.
    """
    if not len(source):
        raise ValueError("the split to evaluate is empty")
    padded = -(-len(source) // loading.batch_size) * loading.batch_size
    dataset = grain.MapDataset.range(padded).map(_LoadForEvaluation(source, loading))
    return _iterate(_batches(dataset, loading), loading.workers)
