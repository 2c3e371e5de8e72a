"""Masks of lungs and lesion as a DICOM segmentation, which viewers lay over its images.

It has the patient, the study and the frame of reference of its images and names each of them.
Standard: DICOM PS3.3, A.51 (segmentation); codes of PS3.16, CID 7150 and 7151.
"""

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import logging

from jaxcovid import __version__
from jaxcovid.data import volumes
from jaxcovid.data.dicom import elements
from jaxcovid.data.dicom.warning_counts import quiet, reading
from jaxcovid.inference.overlay import COLOURS

# What a segmentation copies from its images: the standard allows these to be empty, not to be
# missing, and files without a patient's identity often lack them.
_MAY_BE_EMPTY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
_MAY_BE_EMPTY += ("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName")
_MAY_BE_EMPTY += ("PatientOrientation",)
_IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
_SERIES_NUMBER = 9000  # higher than those that scanners count to


def check_installed() -> None:
    """Raises a ValueError if the library that writes segmentations is missing."""
    if importlib.util.find_spec("highdicom") is None:
        raise ValueError("masks of DICOM need highdicom: pip install 'jaxcovid[dicomseg]'")


def encode(sources: Sequence[Path], masks: np.ndarray) -> bytes:
    """Makes a segmentation of two segments, lungs and lesion, which may overlap.

    Args:
      sources: the files of one series, or one file of several frames.
      masks: bool or uint8 of 0 and 1, [slices, h, w, 2]: of each file, in the order of `sources`;
        of frames in the order of their `volumes.Volume`.

    Returns:
      A DICOM file; each has new identifiers of its own series and instance.

    Raises:
      ValueError: highdicom is missing, an element of a source is missing or bad, or the masks are
        not those of the sources.
      OSError: a source cannot be read.
    """
    check_installed()
    images = [_header(path) for path in sources]
    frames = int(images[0].get("NumberOfFrames") or 1)
    expected = (frames if frames > 1 else len(images), images[0].Rows, images[0].Columns)
    if masks.shape[:3] != expected:
        raise ValueError(
            f"{sources[0]} has {expected} slices, rows and columns but its masks "
            f"{masks.shape[:3]}; a segmentation needs those of all slices (--every=1)"
        )
    if frames > 1:  # back to the order of the file
        masks = masks[np.argsort(volumes.feet_to_head(images[0], frames))]
    try:
        segmentation = _segmentation(images, masks)
    except Exception as error:  # damaged elements raise whatever meets them
        raise ValueError(
            f"no DICOM segmentation can be made of the masks of {sources[0]}: {error}"
        ) from error
    content = io.BytesIO()
    segmentation.save_as(content)
    return content.getvalue()


def _header(path: Path) -> Any:
    """The data set of a DICOM file without its pixels, completed as far as that is honest.

    Raises:
      ValueError: an element without which a segmentation cannot refer to the image is missing.
    """
    quiet()
    with path.open("rb") as file, reading(path):
        dataset, _ = elements.parse_header(file)
    needed = _IDENTIFIERS
    if dataset.get("Modality") == "CT" and "SharedFunctionalGroupsSequence" not in dataset:
        needed += _PLACE
    if missing := [elements.name_of(keyword) for keyword in needed if not dataset.get(keyword)]:
        raise ValueError(
            f"{path}: a DICOM segmentation cannot refer to an image without {', '.join(missing)}; "
            "export the file again"
        )
    for keyword in _MAY_BE_EMPTY:
        if keyword not in dataset:
            setattr(dataset, keyword, None)
    if "ImagePositionPatient" in needed and not dataset.get("FrameOfReferenceUID"):
        logging.log_first_n(
            logging.WARNING, "%s has no frame of reference; its series counts as one.", 1, path
        )
        dataset.FrameOfReferenceUID = _uid_from(dataset.SeriesInstanceUID)
    return dataset


def _uid_from(text: str) -> str:
    """A unique identifier, the same for the same text."""
    from pydicom.uid import generate_uid

    return generate_uid(entropy_srcs=["jaxcovid frame of reference", text])


def _segmentation(images: Sequence[Any], masks: np.ndarray) -> Any:
    """A `highdicom.seg.Segmentation` of masks [slices, h, w, 2] in the images' order."""
    import highdicom

    segmentation = highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=masks,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=_segments(),
        series_instance_uid=highdicom.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="jaxcovid",
        manufacturer_model_name="jaxcovid",
        software_versions=__version__,
        device_serial_number="none",
        series_description="jaxcovid lungs and lesion: research use only",
        content_description="Lungs and lesion, by a network: research use only",
        content_label="LUNGS_AND_LESION",
        omit_empty_frames=bool(masks.any()),
    )
    if "FrameOfReferenceUID" not in segmentation:  # of a film, which has this instead
        segmentation.PatientOrientation = images[0].PatientOrientation
    return segmentation


def _segments() -> list[Any]:
    """The descriptions of the two segments."""
    import highdicom
    from pydicom.sr.codedict import codes

    structure, abnormal = codes.SCT.AnatomicalStructure, codes.SCT.MorphologicallyAbnormalStructure
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="jaxcovid", version=__version__, family=codes.DCM.ArtificialIntelligence
    )

    def describe(number: int, label: str, category: Any, kind: Any) -> Any:
        lab = cv2.cvtColor(np.float32([[COLOURS[label]]]) / 255, cv2.COLOR_RGB2LAB)[0, 0]
        return highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            anatomic_regions=[codes.SCT.Lung],
            display_color=highdicom.color.CIELabColor(*map(float, lab)),
        )

    return [
        describe(1, "lungs", structure, codes.SCT.Lung),
        describe(2, "lesion", abnormal, codes.SCT.Lesion),
    ]
