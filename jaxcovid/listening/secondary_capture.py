"""The picture that says what a network makes of a series, alone or as a DICOM object.

Standard: DICOM PS3.3, A.8.1 (Secondary Capture Image).
"""

import importlib.util
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from jaxcovid import __version__
from jaxcovid.data.dicom import elements
from jaxcovid.data.dicom.warning_counts import quiet, reading
from jaxcovid.inference.overlay import contours, overlay, put_line

NOTICE = "RESEARCH ONLY - NOT FOR DIAGNOSIS"
_SERIES_NUMBER = 9001  # beside that of a segmentation, higher than those that scanners count to
_LEAST_SIDE, _MOST_SIDE = 512, 1024  # px, of a panel
_LINE = 24  # px


def check_installed() -> None:
    """Raises a ValueError if the library that writes DICOM objects is missing."""
    if importlib.util.find_spec("highdicom") is None:
        raise ValueError("answers in DICOM need highdicom: pip install 'jaxcovid[listen]'")


def draw(
    gray: np.ndarray, heatmap: np.ndarray | None, masks: np.ndarray | None, lines: Sequence[str]
) -> np.ndarray:
    """Draws a slice under lines of text, the last of which is `NOTICE`.

    Args:
      gray: uint8 [h, w].
      heatmap: float [any, any] in 0 to 1, laid over a copy of the slice; None leaves it out.
      masks: bool [h, w, 2], lungs and lesion, outlined on a copy; None leaves it out.
      lines: of text; what is not ASCII becomes "?".

    Returns:
      uint8 [any, any, 3], RGB: one panel or two side by side. Small slices are enlarged by a whole
      number, large films shrunk.
    """
    size = _panel_size(gray.shape)
    enlarged = size[0] > gray.shape[1]
    panel = cv2.resize(gray, size, interpolation=cv2.INTER_LINEAR if enlarged else cv2.INTER_AREA)
    panels = []
    if heatmap is not None:
        panels.append(overlay(panel, heatmap))
    if masks is not None:
        large = cv2.resize(masks.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        panels.append(contours(panel, large))
    picture = np.hstack(panels or [np.dstack([panel] * 3)])
    if picture.shape[1] < _LEAST_SIDE:  # room for text
        picture = np.pad(picture, ((0, 0), (0, _LEAST_SIDE - picture.shape[1]), (0, 0)))
    texts = [*lines, NOTICE]
    banner = np.zeros((_LINE * len(texts) + 8, picture.shape[1], 3), np.uint8)
    for row, text in enumerate(texts, 1):
        colour = (255, 200, 0) if text == NOTICE else (255, 255, 255)
        put_line(banner, text, _LINE * row - 4, colour)
    return np.ascontiguousarray(np.vstack([banner, picture]))


def encode(source: Path, picture: np.ndarray, comment: str) -> bytes:
    """Makes a Secondary Capture of a picture, of the patient and the study of a DICOM file.

    Args:
      source: the file that the picture shows.
      picture: uint8 [h, w, 3], RGB.
      comment: what the picture says, for the element ImageComments.

    Returns:
      A DICOM file; each has new identifiers of its own series and instance.

    Raises:
      ValueError: highdicom is missing, or an element of the source is missing or bad.
      OSError: the source cannot be read.
    """
    check_installed()
    quiet()
    with source.open("rb") as file, reading(source):
        dataset, _ = elements.parse_header(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they would show the patient's name
            image = _capture(dataset, picture, comment)
            content = io.BytesIO()
            image.save_as(content)
    except Exception as error:  # damaged elements raise whatever meets them
        raise ValueError(
            f"no DICOM picture of the patient of {source} can be made: {error}"
        ) from error
    return content.getvalue()


def _capture(dataset: Any, picture: np.ndarray, comment: str) -> Any:
    """A `highdicom.sc.SCImage`; see `encode`."""
    import highdicom
    from pydicom.dataset import Dataset
    from pydicom.uid import ExplicitVRLittleEndian

    if dataset.get("PatientSex") not in ("M", "F", "O"):
        dataset.PatientSex = None
    image: Any = highdicom.sc.SCImage.from_ref_dataset(
        ref_dataset=dataset,
        pixel_array=picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=highdicom.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="jaxcovid",
        patient_orientation=("L", "P"),  # is asked for; what is known is set below
        manufacturer_model_name="jaxcovid",
        software_versions=__version__,
        device_serial_number="none",
        series_description="jaxcovid: research only, no diagnosis",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    image.PatientOrientation = dataset.get("PatientOrientation") or None
    image.Laterality = None  # of a chest there is none, but the element has to be there
    image.ImageComments = comment
    image.DerivationDescription = "Overlay and text by a network: research only, no diagnosis"
    shown = Dataset()
    shown.ReferencedSOPClassUID = dataset.SOPClassUID
    shown.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    image.SourceImageSequence = [shown]
    if str(dataset.get("BurnedInAnnotation") or "") == "YES":  # no promise about the source
        image.BurnedInAnnotation = "YES"
    return image


def _panel_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Width and height of a panel that shows a slice [h, w], px."""
    height, width = shape
    longest = max(height, width)
    factor = float(-(-_LEAST_SIDE // longest)) if longest < _LEAST_SIDE else 1.0
    factor = min(factor, _MOST_SIDE / longest)
    return max(1, round(width * factor)), max(1, round(height * factor))
