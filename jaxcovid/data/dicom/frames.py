"""DICOM files of one picture or several: opened, checked, and shown in gray."""

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxcovid.data.dicom import display, elements, pixels
from jaxcovid.data.dicom.header import modality_of
from jaxcovid.data.dicom.warning_counts import quiet
from jaxcovid.data.hounsfield import LUNG_WINDOW
from jaxcovid.data.image_error import ImageError


def read(
    data: bytes, *, modality: str = "", window: tuple[float, float] = LUNG_WINDOW
) -> np.ndarray:
    """Reads one slice or film: gray, uint8 [h, w], 0 black to 255 white.

    A CT's values become Hounsfield units by its rescale slope and intercept or its lookup table of
    type HU, and those of the window become 0 to 255.

    An X-ray's go through its VOI table, else through the first of its VOI windows (linear, exactly
    linear or sigmoid), and what is left of their range becomes 0 to 255. Without either, the range
    is that of the film without outliers such as burnt-in markers: values farther below the 2nd or
    above the 98th percentile than these two are apart are clipped, so that a film without such
    values keeps all of its range. It is inverted if low values are white (MONOCHROME1, or a
    presentation table of shape INVERSE).

    Padding (PixelPaddingValue, PixelPaddingRangeLimit) takes no part in this and is black. An
    enhanced CT's values are taken from its functional groups.

    Args:
      data: the bytes of the file.
      modality: "CT" or "X-ray" to refuse all others; empty takes any.
      window: centre and width in Hounsfield units, for CT.

    Raises:
      ImageError: another modality, no pixels, too many or too few of them, colours, several frames
        (see `volumes`), a compression that cannot be read, an element that is missing or bad (the
        message names it), or a CT without its rescale values. The size is read from the header,
        and of compressed pixels from their own, before any pixel is decoded.
    """
    frames = open_frames(data, modality=modality)
    if len(frames) > 1:
        raise ImageError(
            f"a DICOM file of {len(frames)} frames is no single image; it is read as a volume"
        )
    return frames.gray(0, window)


@dataclasses.dataclass(frozen=True)
class Frames:
    """The frames of one DICOM file, in the order of the file.

    Attributes:
      dataset: of pydicom, without its pixels.
      modality: as in `Header`.
    """

    dataset: Any
    modality: str
    encoded: list[bytes] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.encoded)

    def gray(self, index: int, window: tuple[float, float] = LUNG_WINDOW) -> np.ndarray:
        """Decodes one frame, uint8 [h, w]; see `read`."""
        quiet()
        with _damage_named():
            stored = pixels.decode(self.dataset, self.encoded[index])
            show = display.ct_gray if self.modality == "CT" else display.film_gray
            gray = show(self.dataset, stored, index, window)
            gray[stored.padding] = 0
            return gray


def open_frames(data: bytes, *, modality: str = "") -> Frames:
    """Opens a DICOM file of one or more frames, and checks its header.

    Args:
      data: the bytes of the file.
      modality: as in `read`.

    Raises:
      ImageError: as `read`.
    """
    quiet()
    with _damage_named():
        dataset = elements.parse(io.BytesIO(data))
        kind = modality_of(str(dataset.get("Modality") or ""))
        if "DirectoryRecordSequence" in dataset:
            raise ImageError("a DICOMDIR, the list of a medium's files; give those files")
        if modality and kind != modality:
            raise ImageError(
                f"a DICOM file of modality {kind or 'unknown'}, where {modality} is meant"
            )
        if "PixelData" not in dataset:
            raise ImageError(f"a DICOM file of modality {kind or 'unknown'} without pixels")
        encoded = pixels.split_frames(dataset, pixels.check_pixels(dataset))
        dataset["PixelData"].value = b""
        return Frames(dataset, kind, encoded)


@contextlib.contextmanager
def _damage_named() -> Iterator[None]:
    """Turns whatever a parser meets in a damaged file into an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())
        raise ImageError(
            f"the DICOM header is damaged ({message}); export the file again"
        ) from error
