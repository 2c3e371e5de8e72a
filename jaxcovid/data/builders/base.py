"""What the builders of image files share: features, checks, and splits by patient.

A builder lists its images as rows: dictionaries of `path` (or `image`, the encoded bytes) and of
one value for each feature but the image.
"""

import codecs
import collections
import csv
import gzip
import hashlib
import io
import itertools
import pathlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from absl import logging
from sklearn import model_selection

from jaxcovid.data import decoding, volumes
from jaxcovid.data.png import encode_png

Row = dict[str, Any]
# What data sets of chest X-rays tell of a film: view as in the table, sex "M", "F" or "", age in
# years, -1 unknown.
FILM_FEATURES = {"view": tfds.features.Text(), "sex": tfds.features.Text(), "age": np.int32}
_FOLDS = 10
_LISTED = 200  # names in a message
_MAX_TABLE_BYTES = 2**26
_SPLIT_AS_PUBLISHED = ("published", "paper")
_BLANK_DEVIATION = 2.0  # gray levels; an image of less shows nothing


class ImageBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set of image files in the layout of its source; subclasses say which.

    Attributes:
        description: What it holds and where it comes from.
        homepage: Address of the source.
        citation: BibTeX.
        modality: "CT" or "X-ray"; empty if it is not known.
        window: Centre and width in Hounsfield units through which CT is seen.
        hu_offset: What makes Hounsfield units of the values of 16-bit PNG and TIFF; None stretches
            each over its own range.
        one_label_a_file: Refuse files of equal bytes under two labels.
        class_names: Values of `label`.
        finding_names: Of a data set without `label`: what `findings` tells of each image, 1 yes,
            0 no, -1 uncertain, -2 not mentioned.
        published: How many images the whole data set has, 0 if that is not known.
        more_features: Features beside `image`, `id`, `patient` and these.
    """

    VERSION = tfds.core.Version("1.0.0")
    description: str
    homepage: str | None = None
    citation: str = ""
    modality: str = ""
    window: tuple[float, float] = decoding.LUNG_WINDOW
    hu_offset: float | None = None
    one_label_a_file: bool = False
    class_names: Sequence[str] = ()
    finding_names: Sequence[str] = ()
    published: int = 0
    more_features: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self, *, source: str | None = None, allow_missing: bool = False, **kwargs: Any
    ) -> None:
        """Creates the builder.

        Args:
            source: Folder of the images as they are published; needed to build, not to read.
            allow_missing: Leave out images that are named and absent or cannot be used.
            **kwargs: Those of the TFDS builder: `config`, `data_dir`, `version`.
        """
        super().__init__(**kwargs)
        self.source, self.allow_missing = source, allow_missing
        self._open_volume: tuple[pathlib.Path | None, Any] = (None, None)

    @property
    def grouped(self) -> bool:
        """True if no patient may stand in two splits; the sources' own splits do not keep to it."""
        return self.builder_config is None or self.builder_config.name not in _SPLIT_AS_PUBLISHED

    def rows(self) -> dict[str, list[Row]]:
        """Lists the images of each split."""
        raise NotImplementedError

    def encoded(self, row: Row) -> bytes:
        """What is stored of an image: the file as it is; of CT and DICOM the gray picture, as PNG.

        A row with `slice` is one of a volume.
        """
        if "slice" in row:
            return encode_png(self._volume(row["path"]).gray(row["slice"]))
        data = row["image"] if "image" in row else decoding.read_file(row["path"])
        # What else a DICOM file says of a person does not get into a data set.
        if decoding.is_dicom(data) or (self.hu_offset is not None and decoding.is_16_bit(data)):
            gray = decoding.decode_gray(data, window=self.window, hu_offset=self.hu_offset)
            return encode_png(gray)
        return data

    def _volume(self, path: pathlib.Path) -> volumes.Volume:
        """The volume of a file; the last one stays open for its next slice."""
        if self._open_volume[0] != path:
            self._open_volume = path, volumes.open_volume(path, window=self.window)
        return self._open_volume[1]

    def example(self, row: Row) -> Row:
        """The record of a row: one value for each feature."""
        names = [name for name in self.info.features if name != "image"]
        return {"image": self.encoded(row), **{name: row[name] for name in names}}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.description,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "id": tfds.features.Text(),
                    "patient": tfds.features.Text(),
                    **self._classes(),
                    **self.more_features,
                }
            ),
            homepage=self.homepage,
            citation=self.citation,
        )

    def _classes(self) -> dict[str, Any]:
        if self.finding_names:
            return {"findings": dict.fromkeys(self.finding_names, np.int8)}
        return {"label": tfds.features.ClassLabel(names=list(self.class_names))}

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, Row]]]:
        del dl_manager  # Nothing is downloaded: the sources ask for a consent or have no address.
        rows = self.rows()
        unusable = self._unusable([row for found in rows.values() for row in found])
        if unusable:
            lines = [f"{name}: {reason}" for name, reason in unusable.items()]
            message = f"{len(unusable)} unusable images:\n  " + "\n  ".join(lines)
            if not self.allow_missing:
                raise decoding.ImageError(f"{message}\nMend or remove them")
            logging.warning("%s\nThey are left out", message)
        rows = {
            split: [row for row in found if row["id"] not in unusable]
            for split, found in rows.items()
        }
        if empty := [split for split, found in rows.items() if not found]:
            raise decoding.ImageError(f"no usable image is left in {' and '.join(empty)}")
        images_found = sum(map(len, rows.values()))
        if self.published not in (0, images_found):
            logging.warning(
                "%d images; the published data set has %d", images_found, self.published
            )
        return {split: self._generate_examples(found) for split, found in rows.items()}

    def _unusable(self, rows: Sequence[Row]) -> dict[str, str]:
        """Decodes every image; returns by id why one cannot be used, and says what is odd.

        Raises:
            ValueError: If files of equal bytes have two labels; see `one_label_a_file`.
        """
        bad: dict[str, str] = {}
        blank: list[str] = []
        labels: dict[bytes, Row] = {}
        two_labels: list[str] = []
        notes: collections.Counter[str] = collections.Counter()
        bar = tqdm.tqdm(rows, "Checking images", unit=" images", leave=False, disable=None)
        for row in (row for row in bar if "path" in row):
            try:
                if "slice" in row:
                    gray = self._volume(row["path"]).gray(row["slice"])
                else:
                    data, gray = decoding.read_usable(
                        row["path"], window=self.window, hu_offset=self.hu_offset
                    )
                    notes["own range"] += self.hu_offset is None and decoding.is_16_bit(data)
                    notes["orientation"] += decoding.exif_orientation(data) != 1
                    if self.one_label_a_file:
                        first = labels.setdefault(hashlib.sha256(data).digest(), row)
                        if first["label"] != row["label"]:
                            two_labels.append(f"{first['id']} is {row['id']}")
            except decoding.ImageError as error:
                bad[row["id"]] = str(error)
                continue
            if gray.std() < _BLANK_DEVIATION:
                blank.append(row["id"])
        if two_labels:
            raise ValueError(
                f"{len(two_labels)} files stand under two labels: {'; '.join(two_labels)}; leave "
                "each under the right one"
            )
        if blank:
            logging.warning("%d images are blank: %s", len(blank), _listed(blank))
        if notes["own range"] and self.modality != "X-ray":
            logging.warning(
                "%d images have 16 bits a pixel, and each is stretched over its own range. If they "
                "are CT, give --hu_offset: what added to their values makes Hounsfield units",
                notes["own range"],
            )
        if notes["orientation"]:
            logging.warning(
                "%d images carry an EXIF orientation, which is not applied: turn them upright",
                notes["orientation"],
            )
        return bad

    def _generate_examples(self, rows: Sequence[Row]) -> Iterator[tuple[str, Row]]:
        for row in rows:
            yield row["id"], self.example(row)


def _listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def source_folder(
    source: str | None, *, name: str, what: str, layout: str, needed: Iterable[str] = ()
) -> pathlib.Path:
    """The folder that a user names as the source of a data set.

    Args:
        source: As given.
        name: Of the data set.
        what: The folder should be, for the messages: "checkout of COVID-CT".
        layout: What it should hold, for the messages.
        needed: Paths in it that must be there.

    Raises:
        ValueError: If there is none.
        FileNotFoundError: If something that is needed is not there; names all of it.
    """
    if not source:
        raise ValueError(f"{name} needs --source=DIR, a {what} with\n{layout}")
    root = pathlib.Path(source).expanduser()
    absent = [path for path in needed if not (root / path).exists()]
    if absent:
        raise FileNotFoundError(
            f"{root} is no {what}: {', '.join(absent)} not found; expected\n{layout}"
        )
    return root


def find_table(root: pathlib.Path, names: Sequence[str], layout: str) -> pathlib.Path:
    """The first of these files that is there.

    Raises:
        FileNotFoundError: If none is.
    """
    for name in names:
        if (root / name).is_file():
            return root / name
    raise FileNotFoundError(f"{root} has no {names[0]}; expected\n{layout}")


def read_table(table: pathlib.Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and the rows of a CSV file, gzipped if its name says so; gaps are empty.

    Between fields stands a comma, a semicolon or a tab, whichever the first line has most of. Text
    is UTF-8, UTF-16 with its mark, or else Windows' Western European, which the log says.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is too large or no CSV.
    """
    opened = gzip.open if table.suffix == ".gz" else open
    try:
        with opened(table, "rb") as file:
            pieces = iter(lambda: file.read(2**20), b"")
            data = b"".join(itertools.islice(pieces, 1 + _MAX_TABLE_BYTES // 2**20))
        if len(data) > _MAX_TABLE_BYTES:
            raise ValueError(f"at most {_MAX_TABLE_BYTES:,} bytes are accepted")
        text = _decoded(data, table)
        first = text.partition("\n")[0]
        delimiter = max(",;\t", key=first.count)
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="", delimiter=delimiter)
        return list(reader.fieldnames or ()), list(reader)
    except (ValueError, csv.Error, EOFError, zlib.error) as error:
        raise ValueError(f"{table} is no usable table: {error}") from error


def _decoded(data: bytes, table: pathlib.Path) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    if b"\0" in data:
        raise ValueError("it has zero bytes, as UTF-16 without its mark has; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        logging.warning(
            "%s is not UTF-8 (byte %d); read as Windows' Western European (cp1252)",
            table,
            error.start,
        )
        return data.decode("cp1252")


def age_of(text: str) -> int:
    """Years that a table tells, -1 if none.

    Raises:
        ValueError: If it is no age.
    """
    age = float(text or -1)
    if not -1 <= age < 1000:
        raise ValueError(f"{text!r} is no age in years")
    return int(age)


def file_in(folder: pathlib.Path, name: str, *, named_in: object) -> pathlib.Path:
    """The path of a file of a folder that a table names.

    Links in the folder are followed: the folder is the user's, the table often somebody else's.

    Args:
        folder: Of the files.
        name: Relative to it.
        named_in: Table and row, for the message.

    Raises:
        ValueError: If the name leads out of the folder.
    """
    path = pathlib.PurePath(name)
    if path.anchor or ".." in path.parts or "\0" in name:
        raise ValueError(f"{named_in}: {name!r} leads out of {folder}; name a file in it")
    return folder / name


def check_columns(table: pathlib.Path, columns: Sequence[str], needed: Iterable[str]) -> None:
    """Refuses a table without a column that is needed.

    Raises:
        ValueError: Naming all that are absent, and those that are there.
    """
    absent = [name for name in needed if name not in columns]
    if absent:
        raise ValueError(
            f"{table} has no column {' and no column '.join(absent)}; it has "
            + ", ".join(filter(None, columns))
        )


def present(rows: Sequence[Row], table: pathlib.Path, *, allow_missing: bool) -> list[Row]:
    """The rows whose images are there.

    Args:
        rows: With `path` and `id`.
        table: Where they are named, for the message.
        allow_missing: Leave the others out instead of refusing.

    Raises:
        FileNotFoundError: If one is not there, or with `allow_missing` none is; names them.
    """
    missing = [row["id"] for row in rows if not row["path"].is_file()]
    if not missing:
        return list(rows)
    message = f"{len(missing)} of {len(rows)} images of {table} are not there: {_listed(missing)}"
    if len(missing) == len(rows):
        raise FileNotFoundError(message)
    if not allow_missing:
        raise FileNotFoundError(f"{message}. Add them, or go without: --allow_missing")
    logging.warning("%s; left out", message)
    return [row for row in rows if row["path"].is_file()]


def split_by_patient(rows: Sequence[Row], *, test_tenths: int) -> dict[str, list[Row]]:
    """Shares patients out over train, validation (a tenth) and test, the same way at each call.

    The classes are shared out evenly; of films with several findings those with pneumonia.

    Args:
        rows: With `patient`, and `label` or `findings`.
        test_tenths: Tenths of the images that make the test split, about.

    Raises:
        ValueError: If a class has fewer than ten patients.
    """
    patients = collections.defaultdict(set)
    labels = [
        row["label"] if "label" in row else f"pneumonia {row['findings']['Pneumonia']}"
        for row in rows
    ]
    for label, row in zip(labels, rows, strict=True):
        patients[label].add(row["patient"])
    for label, found in sorted(patients.items()):
        if len(found) < _FOLDS:
            train = _FOLDS - 1 - test_tenths
            raise ValueError(
                f"class {label!r} has {len(found)} patients, to split {train}0/10/{test_tenths}0 "
                f"at least {_FOLDS} are needed; give a CSV with a column split"
            )
    folds = model_selection.StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    groups = [row["patient"] for row in rows]
    fold_of = np.zeros(len(rows), int)
    for fold, (_, held_out) in enumerate(folds.split(rows, labels, groups)):
        fold_of[held_out] = fold
    names = (_FOLDS - 1 - test_tenths) * ["train"] + ["validation"] + test_tenths * ["test"]
    split: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row, fold in zip(rows, fold_of, strict=True):
        split[names[fold]].append(row)
    return split
