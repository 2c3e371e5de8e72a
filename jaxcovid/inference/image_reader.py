"""The images that a user names, opened one after another, and which of them belong together."""

import collections
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from jaxcovid.data import decoding, dicom, image_files, volumes
from jaxcovid.data.decoding import ImageError
from jaxcovid.data.image_files import text_of
from jaxcovid.data.pseudonyms import Pseudonyms, names_patient
from jaxcovid.data.sight import Sight
from jaxcovid.metrics.involvement import Areas


@dataclasses.dataclass(frozen=True)
class Opened:
    """One image, or what is wrong with it.

    Attributes:
      name: its path as text; of a slice of a volume with its number behind a "#".
      path: of its file.
      gray: uint8 [h, w]; None if there is an error.
      colour: see `decoding.colour_of`.
      patient: of DICOM, else empty.
      study: of DICOM, else empty.
      series: of DICOM, else empty.
      volume: name of the file of several slices that it is one of; else empty.
      error: why it cannot be used.
    """

    name: str
    path: Path
    gray: np.ndarray | None = None
    colour: float = 0.0
    patient: str = ""
    study: str = ""
    series: str = ""
    volume: str = ""
    error: str = ""


def list_files(paths: Sequence[str | Path], left_out: collections.Counter[str]) -> list[Path]:
    """Files, and those below folders, each once; see `image_files`.

    Args:
      paths: files and folders; a file that is named itself counts though it is hidden.
      left_out: gets how many were left out, by reason.

    Raises:
      FileNotFoundError: a path does not exist, or nothing is left.
    """
    files: dict[str, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"no image or folder {text_of(path)}")
        for file in image_files.find_files(path, left_out) if path.is_dir() else [path]:
            real = os.path.realpath(file)
            left_out[image_files.TWICE] += real in files
            files.setdefault(real, file)
    if not files:
        reasons = image_files.counts_text(left_out)
        raise FileNotFoundError(
            f"no files below {', '.join(map(text_of, paths))}"
            + (f"; left out: {reasons}" if reasons else "")
        )
    return list(files.values())


class Reader:
    """Opens files for a network.

    Attributes:
      left_out: how many files were left out, by reason.
      notes: how many files were read in a way that the user should know of, by reason.
    """

    def __init__(
        self, sight: Sight, *, every: int = 1, pseudonyms: Pseudonyms | None = None
    ) -> None:
        """Prepares to read.

        Args:
          sight: of the network that will see them.
          every: of a volume every how many slices are opened.
          pseudonyms: for the ids of patients, studies and series; None keeps the ids.
        """
        self.left_out: collections.Counter[str] = collections.Counter()
        self.notes: collections.Counter[str] = collections.Counter()
        self._sight, self._every, self._pseudonyms = sight, every, pseudonyms

    def open(self, files: Sequence[Path]) -> Iterator[Opened]:
        """Opens file after file, of a volume slice after slice."""
        for path in files:
            try:
                yield from self._open(path)
            except (ImageError, OSError) as error:
                yield Opened(text_of(path), path, error=text_of(str(error)))

    def _open(self, path: Path) -> Iterator[Opened]:
        name, header = text_of(path), dicom.header_of(path)
        if header and header.left_out:
            self.left_out[header.left_out] += 1
            return
        ids: dict[str, str] = {}
        if header:
            ids = {key: getattr(header, key) for key in ("patient", "study", "series")}
            if self._pseudonyms:
                self.notes["paths hold the PatientID, which the pseudonym does not hide"] += (
                    names_patient(name, header.patient)
                )
                ids = {key: self._pseudonyms(value) for key, value in ids.items()}
        if volumes.is_volume(path, header):
            volume = volumes.open_volume(
                path, modality=self._sight.modality, window=self._sight.window
            )
            for index in image_files.every_nth(len(volume), self._every):
                slice_name = f"{name}#{index:04d}"
                try:
                    yield Opened(slice_name, path, volume.gray(index), volume=name, **ids)
                except (ImageError, OSError) as error:
                    yield Opened(slice_name, path, volume=name, error=text_of(str(error)), **ids)
            return
        data = decoding.read_file(path)
        gray = self._sight.read_gray(data)
        if decoding.exif_orientation(data) != 1:
            self.notes["images carry an EXIF orientation, which is not applied"] += 1
        if decoding.is_16_bit(data) and self._sight.hu_offset is None:
            self.notes["images of 16 bits were stretched over their own range"] += 1
        yield Opened(name, path, gray, decoding.colour_of(data), **ids)


class Member(NamedTuple):
    """What is known of an image of a group: probabilities float [outputs], areas of its masks."""

    probabilities: np.ndarray
    areas: Areas | None


class Groups:
    """Which images are of one volume, series or patient, for rows of their means."""

    def __init__(self) -> None:
        self._members: dict[tuple[str, str, str], list[Member]] = collections.defaultdict(list)
        self._studies: dict[str, set[str]] = collections.defaultdict(set)

    def add(self, image: Opened, probabilities: np.ndarray, areas: Areas | None = None) -> None:
        """Adds what is known of an image, see `Member`."""
        member = Member(probabilities, areas)
        if image.volume:
            self._members["volume", image.volume, image.patient].append(member)
        elif image.series:
            self._members["series", image.series, image.patient].append(member)
        if image.patient:
            self._members["patient", image.patient, image.patient].append(member)
            self._studies[image.patient].add(image.study)

    def means(self) -> Iterator[tuple[str, str, str, list[Member]]]:
        """Of each group of several images its kind, name, patient and members.

        A PatientID that cannot be one person's makes no group: one that stands for nobody, or the
        only one of several studies.
        """
        for (kind, name, patient), members in sorted(self._members.items()):
            if len(members) < 2:
                continue
            if kind == "patient":
                studies = len(self._studies[patient])
                alone = len(self._studies) == 1 and studies > 1
                if dicom.is_placeholder(patient) or alone:
                    logging.warning(
                        "PatientID %r stands for %d images of %d studies, maybe of many people: "
                        "it gets no row. Give every patient an id.",
                        patient,
                        len(members),
                        studies,
                    )
                    continue
            yield kind, name, patient, members
