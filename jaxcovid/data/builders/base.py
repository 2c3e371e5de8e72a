"""What the builders of image files share: features, records, and a check of every image."""

import collections
import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from absl import logging

from jaxcovid.data import decoding, volumes
from jaxcovid.data.builders.mask_files import naming_mask, read_mask
from jaxcovid.data.builders.tables import Row, listed
from jaxcovid.data.hounsfield import LUNG_WINDOW
from jaxcovid.data.image_error import ImageError
from jaxcovid.data.png import encode_png
from jaxcovid.data.structures import FEATURES

# What data sets of chest X-rays know of a film: view as in the table, sex "M", "F" or "", age in
# years, -1 unknown.
FILM_FEATURES = {"view": tfds.features.Text(), "sex": tfds.features.Text(), "age": np.int32}
_SPLIT_AS_PUBLISHED = ("published", "paper")
_BLANK_DEVIATION = 2.0  # gray levels; an image of less shows nothing


class ImageBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set of image files in the layout of its source; subclasses say which.

    Attributes:
        options: Which options of `preparation.Options` it takes.
        named_by_user: True if the user gives the data set its name.
        description: What it holds and where it comes from.
        homepage: Address of the source.
        citation: BibTeX.
        modality: "CT" or "X-ray"; empty if it is not known.
        window: Centre and width in Hounsfield units through which CT is seen.
        hu_offset: What makes Hounsfield units of the values of 16-bit PNG and TIFF; None stretches
            each over its own range.
        one_label_a_file: Refuse files of equal bytes under two labels.
        class_names: Values of `label`.
        finding_names: Of a data set without `label`: what `findings` says of each image, 1 yes,
            0 no, -1 uncertain, -2 not mentioned.
        published: How many images the whole data set has, 0 if that is not known.
        more_features: Features beside `image`, `id`, `patient` and these; of those in
            `structures.FEATURES` a row has the path of a mask, None or "" where it is not known.
        masks_keep_affine: NIfTI masks have the affine of their scan; see `nifti.check_grid`.
    """

    VERSION = tfds.core.Version("1.0.0")
    options: ClassVar[tuple[str, ...]] = ("source",)
    named_by_user: ClassVar[bool] = False
    description: str
    homepage: str | None = None
    citation: str = ""
    modality: str = ""
    window: tuple[float, float] = LUNG_WINDOW
    hu_offset: float | None = None
    one_label_a_file: bool = False
    class_names: Sequence[str] = ()
    finding_names: Sequence[str] = ()
    published: int = 0
    more_features: ClassVar[Mapping[str, Any]] = {}
    masks_keep_affine: bool = True

    def __init__(
        self,
        *,
        source: str | None = None,
        allow_missing: bool = False,
        every: int = 1,
        **kwargs: Any,
    ) -> None:
        """Creates the builder.

        Args:
            source: Folder of the images as they are published; needed to build, not to read.
            allow_missing: Leave out images that are named and absent or cannot be used.
            every: Of volumes every how many slices are taken.
            **kwargs: Those of the TFDS builder: `config`, `data_dir`, `version`.
        """
        super().__init__(**kwargs)
        self.source, self.allow_missing, self.every = source, allow_missing, every
        self._opened: dict[pathlib.Path, Any] = {}  # a volume and its masks

    @property
    def grouped(self) -> bool:
        """True if no patient may be in two splits; the sources' own splits do not keep to it."""
        return self.builder_config is None or self.builder_config.name not in _SPLIT_AS_PUBLISHED

    def rows(self) -> dict[str, list[Row]]:
        """Lists the images of each split."""
        raise NotImplementedError

    def encoded(self, row: Row) -> bytes:
        """Encodes an image as it is stored: the file itself; CT in 16 bits and DICOM as gray PNG.

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

    def open_volume(self, path: pathlib.Path) -> volumes.Volume:
        """Opens the volume of a file."""
        return volumes.open_volume(path, window=self.window)

    def _volume(self, path: pathlib.Path) -> volumes.Volume:
        """The volume of a file; the last one stays open, with its masks, for its next slice."""
        if path not in self._opened:
            self._opened = {path: self.open_volume(path)}
        return self._opened[path]

    def mask(self, row: Row, feature: str, shape: tuple[int, int]) -> np.ndarray:
        """Reads a mask that a row names, bool [h, w].

        Args:
            row: Its image is a file, or with `slice` one of a volume.
            feature: One of `structures.FEATURES`.
            shape: Height and width of the image.

        Raises:
            ImageError: If it cannot be used, or has another size than the image.
            OSError: If it cannot be read.
        """
        if "slice" not in row:
            return read_mask(row[feature], shape)
        if row[feature] not in self._opened:
            self._opened[row[feature]] = volumes.open_masks(
                row[feature], row["path"], same_affine=self.masks_keep_affine
            )
        return self._opened[row[feature]][row["slice"]] != 0

    def _masks(self, row: Row, shape: tuple[int, int]) -> dict[str, bytes]:
        """The masks of a row as records hold them: PNG of 0 and 255, no bytes if not known."""
        masks = {}
        for feature in FEATURES.values():
            if not row.get(feature):
                masks[feature] = b""
                continue
            with naming_mask(feature, row[feature]):
                mask = self.mask(row, feature, shape)
            masks[feature] = encode_png(np.where(mask, 255, 0).astype(np.uint8))
        return masks

    def example(self, row: Row) -> Row:
        """Builds the record of a row: one value for each feature."""
        image = self.encoded(row)
        known = any(row.get(feature) for feature in FEATURES.values())
        masks = self._masks(row, decoding.decode_gray(image).shape if known else (0, 0))
        values = {**row, **masks, "image": image}
        return {name: values[name] for name in self.info.features}

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
        unusable = self._unusable([row for split_rows in rows.values() for row in split_rows])
        if unusable:
            lines = [f"{name}: {reason}" for name, reason in unusable.items()]
            message = f"{len(unusable)} unusable images:\n  " + "\n  ".join(lines)
            if not self.allow_missing:
                raise ImageError(f"{message}\nMend or remove them")
            logging.warning("%s\nThey are left out", message)
        rows = {
            split: [row for row in split_rows if row["id"] not in unusable]
            for split, split_rows in rows.items()
        }
        if empty := [split for split, split_rows in rows.items() if not split_rows]:
            raise ImageError(f"no usable image is left in {' and '.join(empty)}")
        count = sum(map(len, rows.values()))
        if self.published not in (0, count):
            logging.warning("%d images; the published data set has %d", count, self.published)
        return {split: self._generate_examples(split_rows) for split, split_rows in rows.items()}

    def _unusable(self, rows: Sequence[Row]) -> dict[str, str]:
        """Decodes every image; returns by id why one cannot be used, and warns of what is odd.

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
                self._masks(row, gray.shape)
            except ImageError as error:
                bad[row["id"]] = str(error)
                continue
            if gray.std() < _BLANK_DEVIATION:
                blank.append(row["id"])
        if two_labels:
            raise ValueError(
                f"{len(two_labels)} files have two labels: {'; '.join(two_labels)}; leave each "
                "under the right one"
            )
        if blank:
            logging.warning("%d images are blank: %s", len(blank), listed(blank))
        self._warn(notes)
        return bad

    def _warn(self, notes: Mapping[str, int]) -> None:
        """Warns of images that are read in a way that the user should know of."""
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

    def _generate_examples(self, rows: Sequence[Row]) -> Iterator[tuple[str, Row]]:
        for row in rows:
            yield row["id"], self.example(row)
