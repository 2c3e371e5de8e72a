"""Screens a user's images with a trained network: a row of a table for each."""

import collections
import concurrent.futures
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import logging

from jaxcovid.data import pseudonyms as pseudonym_keys
from jaxcovid.data.dicom import counted_warnings
from jaxcovid.data.image_files import counts_text, every_nth
from jaxcovid.data.labels import Task
from jaxcovid.data.png import encode_png
from jaxcovid.inference.image_reader import Groups, Opened, Reader, list_files
from jaxcovid.inference.mask_files import check_files
from jaxcovid.inference.mask_writer import MaskWriter, figures
from jaxcovid.inference.network import NO_HEATMAPS, Network
from jaxcovid.inference.overlay import overlay
from jaxcovid.inference.picture_names import picture_name
from jaxcovid.metrics.thresholds import main_name

Row = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """How a user's images are read.

    Attributes:
      every: of volumes every how many slices are screened.
      window: centre and width in Hounsfield units, for CT; None is that of the training.
      hu_offset: what makes Hounsfield units of the values of 16-bit PNG and TIFF; None is that of
        the training.
      pseudonyms: key file; ids of patients and series are replaced by keyed pseudonyms.
    """

    every: int = 1
    window: tuple[float, float] | None = None
    hu_offset: float | None = None
    pseudonyms: Path | None = None


def screen(
    load: Callable[[], Network],
    paths: Sequence[str | Path],
    reading: Reading,
    *,
    threshold: str = "youden",
    heatmaps: Path | None = None,
    segment: Path | None = None,
) -> Iterator[Row]:
    """Yields a row for each image, in order.

    Args:
      load: opens the network, once it is known that there are images.
      paths: images and folders.
      reading: how they are read.
      threshold: name of a stored threshold (`youden`, `sensitivity_90`, `sensitivity_95`) or a
        number in 0 to 1.
      heatmaps: folder for an overlay of each image; None makes none.
      segment: folder for contours and masks of lungs and lesion; None makes none.

    Yields:
      Rows of the same columns: `id`; of DICOM `patient` and `series`; `images`, how many it is
      about; `probability` of the positive class and `decision` (not of a network for findings);
      `probability_NAME` of the other outputs; `heatmap`, the file in the folder (of findings
      several, with ";" between), if there is a folder; if masks are made `involved`, the share of
      the lungs, `grade`, `bilateral`, `peripheral`, `dorsal`, `lower` (see `metrics.involvement`)
      and the files `contours` and `masks`, the latter also of a volume or a series; `warning` of an
      image that is not of the kind that the network was trained on; `error`, else empty. First a
      row for each image, then one for each volume, DICOM series and patient of several.

    Raises:
      ValueError: no network, an unknown threshold, a key that is too short.
      OSError: a path that does not exist, a folder that cannot be written.
    """
    every_nth(1, reading.every)
    key = pseudonym_keys.read_key(reading.pseudonyms) if reading.pseudonyms else None
    left_out: collections.Counter[str] = collections.Counter()
    files = list_files(paths, left_out)
    network = load()
    if reading.window:
        network = dataclasses.replace(network, window=reading.window)
    if reading.hu_offset is not None:
        network = dataclasses.replace(network, hu_offset=reading.hu_offset)
    masks = MaskWriter(segment) if segment else None
    if masks:
        _check_segments(network, reading)
        check_files(files, pseudonyms=key is not None)
    columns = _Columns(
        network.task,
        _limit(network, threshold),
        drawn=heatmaps is not None,
        segmented=masks is not None,
    )
    if heatmaps and not network.has_gradcam:
        raise ValueError(f"{NO_HEATMAPS}; leave --heatmaps out")
    if heatmaps:
        heatmaps.mkdir(parents=True, exist_ok=True)
    reader = Reader(network.sight, every=reading.every, pseudonyms=key)
    with counted_warnings():
        yield from _rows(network, reader.open(files), columns, heatmaps, masks)
        if masks:
            masks.write()
    if text := counts_text(left_out + reader.left_out):
        logging.warning("Left out: %s", text)
    for note, count in sorted(reader.notes.items()):
        if count:
            logging.warning("%d %s", count, note)


@dataclass(frozen=True)
class _Columns:
    """The columns of the table.

    Attributes:
      task: of the network.
      limit: probability from which an image is called positive; None of a network for findings.
      drawn: there is a folder for heatmaps.
      segmented: there is one for masks.
    """

    task: Task
    limit: float | None
    drawn: bool
    segmented: bool

    def row(
        self,
        name: str,
        probabilities: Sequence[float] | None,
        *,
        patient: str = "",
        series: str = "",
        images: int = 1,
        made: Mapping[str, str] | None = None,
        warning: str = "",
        error: str = "",
    ) -> Row:
        """The row of an image or a group of them, see `screen`; `made` are columns of pictures."""
        outputs, missing = self.task.outputs, probabilities is None
        texts = [""] * len(outputs) if missing else [f"{p:.6f}" for p in probabilities]
        names = [f"probability_{output.replace(' ', '_')}" for output in outputs]
        if self.task.screens:
            names[0] = "probability"
        row: Row = {"id": name, "patient": patient, "series": series, "images": images}
        row |= zip(names, texts, strict=True)
        if self.limit is not None:
            row["decision"] = "" if missing else decide(self.task, probabilities, self.limit)
        if self.drawn:
            row["heatmap"] = ""
        if self.segmented:
            row |= figures(None) | {"contours": "", "masks": ""}
        return {**row, **(made or {}), "warning": warning, "error": error}


def decide(task: Task, probabilities: Sequence[float], limit: float) -> str:
    """The decision about an image, in words: the positive class from the limit on, or "not" it."""
    return ("" if probabilities[0] >= limit else "not ") + task.positive_class


def _rows(
    network: Network,
    opened: Iterator[Opened],
    columns: _Columns,
    heatmaps: Path | None,
    masks: MaskWriter | None,
) -> Iterator[Row]:
    """The rows of all images, then those of their groups."""
    groups = Groups()
    for batch in _one_ahead(lambda: list(itertools.islice(opened, network.batch_size))):
        usable = [image for image in batch if image.gray is not None]
        grays = [image.gray for image in usable]
        scores = iter(network.probabilities(grays) if usable else [])
        names = [image.name for image in usable] if heatmaps else []
        pictures = iter(_draw_heatmaps(network, grays, names, heatmaps) if names else [])
        segmented = iter(network.segment(grays) if masks and usable else [])
        colours = [image.colour for image in usable]
        warnings = iter(network.warnings(grays, colours) if usable else [])
        for image in batch:
            ids = {"patient": image.patient, "series": image.series}
            if image.gray is None:
                yield columns.row(image.name, None, error=image.error, **ids)
                continue
            probabilities = next(scores)
            areas, made = masks.add(image, next(segmented)) if masks else (None, {})
            groups.add(image, probabilities, areas)
            if heatmaps:
                made["heatmap"] = next(pictures)
            yield columns.row(
                image.name,
                probabilities,
                warning=next(warnings),
                made=made,
                **ids,
            )
    for kind, name, patient, members in groups.means():
        yield columns.row(
            f"{kind} {name}",
            np.mean([member.probabilities for member in members], 0),
            images=len(members),
            made=masks.columns_of_group(kind, name, [each.areas for each in members])
            if masks
            else None,
            patient=patient,
            series=name if kind == "series" else "",
        )


def _draw_heatmaps(
    network: Network, grays: Sequence[np.ndarray], names: Sequence[str], folder: Path
) -> list[str]:
    """Writes an overlay of each image, of findings one for each; returns the names of the files."""
    suffixes = [""]
    if not network.task.screens:
        suffixes = [f"_{name}" for name in network.outputs]
    files = [[picture_name(name, suffix) for suffix in suffixes] for name in names]
    for output in range(len(suffixes)):
        cams = network.heatmaps(grays, output=output)
        for gray, cam, pictures in zip(grays, cams, files, strict=True):
            picture = cv2.cvtColor(overlay(gray, cam), cv2.COLOR_RGB2BGR)
            (folder / pictures[output]).write_bytes(encode_png(picture))
    return [";".join(pictures) for pictures in files]


def _one_ahead(next_batch: Callable[[], list[Opened]]) -> Iterator[list[Opened]]:
    """Batches until an empty one, the next one made while the caller works on the last."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        coming = executor.submit(next_batch)
        while batch := coming.result():
            coming = executor.submit(next_batch)
            yield batch


def _check_segments(network: Network, reading: Reading) -> None:
    if not network.segments:
        raise ValueError(
            "this network has no decoder; --segment needs one that was trained with "
            "--config.objective=segmentation or joint"
        )
    if reading.every != 1:
        raise ValueError(
            f"--every={reading.every} leaves slices out, but a file of masks has all of its "
            "volume; leave --every or --segment out"
        )


def _limit(network: Network, threshold: str) -> float | None:
    """The probability from which an image is called positive; None of a network for findings."""
    if not network.task.screens:
        if threshold != "youden":
            raise ValueError("a network for findings has no thresholds; leave --threshold out")
        return None
    return parse_threshold(threshold, network.thresholds)


def parse_threshold(threshold: str, stored: Mapping[str, float]) -> float:
    """The threshold of a name or a number.

    Raises:
      ValueError: neither a stored name nor a number in 0 to 1.
    """
    if threshold == "youden":  # the default, which not all networks have
        threshold = main_name(stored)
    if threshold in stored:
        return stored[threshold]
    try:
        number = float(threshold)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(
            f"threshold {threshold!r} is not one of {', '.join(stored)}, nor a number in 0 to 1"
        )
    return number
