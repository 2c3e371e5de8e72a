"""How a network sees the images of a user: which it takes, and through which window."""

from dataclasses import dataclass

import numpy as np

from jaxcovid.data.decoding import decode_gray
from jaxcovid.data.hounsfield import LUNG_WINDOW


@dataclass(frozen=True)
class Sight:
    """How images are seen.

    Attributes:
      modality: "CT" or "X-ray", to refuse DICOM files and volumes of any other; empty takes all.
      window: centre and width in Hounsfield units through which CT is seen.
      hu_offset: what makes Hounsfield units of 16-bit PNG and TIFF; None stretches each over its
        own range.
    """

    modality: str = ""
    window: tuple[float, float] = LUNG_WINDOW
    hu_offset: float | None = None

    def read_gray(self, data: bytes) -> np.ndarray:
        """The gray image uint8 [h, w] of an encoded one; see `decoding.decode_gray`."""
        return decode_gray(
            data, modality=self.modality, window=self.window, hu_offset=self.hu_offset
        )
