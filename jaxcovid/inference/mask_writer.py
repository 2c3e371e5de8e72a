"""Masks of the images that are screened: into files, and as figures for the table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from jaxcovid.data.png import encode_png
from jaxcovid.inference.image_reader import Opened
from jaxcovid.inference.mask_files import suffix_of, write_masks
from jaxcovid.inference.overlay import contours
from jaxcovid.inference.picture_names import picture_name
from jaxcovid.metrics.involvement import Areas, involvement, measure_slice, pool, stack

_FIGURES = ("bilateral", "peripheral", "dorsal", "lower")


def figures(areas: Areas | None) -> dict[str, str]:
    """The columns of the table that say how much of the lungs is involved, and where.

    Args:
      areas: of an image, a volume or a patient; None of one that cannot be used.
    """
    if areas is None:
        return dict.fromkeys(("involved", "grade", *_FIGURES), "")
    of = involvement(areas)
    return {
        "involved": f"{of.share:.4f}",
        "grade": of.grade,
        "bilateral": "yes" if of.bilateral else "no",
        **{name: _share(getattr(of, name)) for name in _FIGURES[1:]},
    }


def _share(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


@dataclass
class _Group:
    """The slices of one file of masks, in the order in which they came.

    Attributes:
      name: of the file, without its suffix.
      file: with it.
      sources: its files.
      masks: of each slice, packed to bits, and its shape.
    """

    name: str
    file: str
    sources: list[Path] = field(default_factory=list)
    masks: list[tuple[np.ndarray, tuple[int, ...]]] = field(default_factory=list)

    def add(self, source: Path, masks: np.ndarray) -> None:
        """Adds the masks bool [h, w, 2] of the next slice."""
        if source not in self.sources:
            self.sources.append(source)
        self.masks.append((np.packbits(masks), masks.shape))

    def stacked(self) -> np.ndarray:
        """All masks, bool [slices, h, w, 2].

        Raises:
          ValueError: slices of several sizes.
        """
        shapes = {shape for _, shape in self.masks}
        if len(shapes) > 1:
            sizes = ", ".join(f"{w} x {h}" for h, w, _ in sorted(shapes))
            raise ValueError(f"{self.name}: its slices have several sizes ({sizes} px)")
        (shape,) = shapes
        return np.stack(
            [np.unpackbits(bits, count=math.prod(shape)).reshape(shape) for bits, _ in self.masks]
        ).astype(bool)


@dataclass
class MaskWriter:
    """Collects the masks of images; writes contours at once, files of masks at the end.

    Attributes:
      folder: gets `contours/` and `masks/`.
    """

    folder: Path
    _groups: dict[str, _Group] = field(default_factory=dict)

    def add(self, image: Opened, probabilities: np.ndarray) -> tuple[Areas, dict[str, str]]:
        """Takes the probabilities float32 [h, w, 2] of an image.

        Returns:
          The areas of its masks, and the columns of its row: `figures`, and the files `contours`
          and `masks` in the folder.
        """
        masks = probabilities >= 0.5
        key = image.volume or image.series or image.name
        if key not in self._groups:
            name = picture_name(key).removesuffix(".png")
            self._groups[key] = _Group(name, name + suffix_of(image.path))
        group = self._groups[key]
        group.add(image.path, masks)
        picture = f"contours/{picture_name(image.name)}"
        (self.folder / picture).parent.mkdir(parents=True, exist_ok=True)
        drawn = cv2.cvtColor(contours(image.gray, masks), cv2.COLOR_RGB2BGR)
        (self.folder / picture).write_bytes(encode_png(drawn))
        areas = measure_slice(masks[..., 0], masks[..., 1])
        return areas, {
            **figures(areas),
            "contours": picture,
            "masks": f"masks/{group.file}",
        }

    def columns_of_group(self, kind: str, name: str, slices: Sequence[Areas]) -> dict[str, str]:
        """The columns of the row of a volume, a series or a patient: see `add`.

        Args:
          kind: "volume", "series" or "patient".
          name: of it.
          slices: areas of its images, those of a volume from the feet to the head.

        Returns:
          `figures`, and the file `masks` of a volume or a series; a patient may have several.
        """
        areas = stack(slices) if kind == "volume" else pool(slices)
        own_file = "" if kind == "patient" else f"masks/{self._groups[name].file}"
        return {**figures(areas), "masks": own_file}

    def write(self) -> None:
        """Writes one file for each picture, volume and series.

        Raises:
          ValueError: some could not be written, see `mask_files.write_masks`; the others were.
        """
        folder = self.folder / "masks"
        folder.mkdir(parents=True, exist_ok=True)
        failed = []
        for group in self._groups.values():
            try:
                write_masks(folder, group.name, group.sources, group.stacked())
            except (ValueError, OSError) as error:
                failed.append(f"{group.file}: {error}")
        if failed:
            raise ValueError(
                f"{len(failed)} files of masks could not be written:\n  " + "\n  ".join(failed)
            )
