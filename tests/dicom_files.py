"""DICOM files, written here."""

import io

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CT = {"Modality": "CT", "RescaleSlope": 2, "RescaleIntercept": -1000}


def dicom_bytes(pixels=None, *, syntax=ExplicitVRLittleEndian, **tags):
    """A file of 16-bit pixels and tags by keyword; None leaves a tag out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = "1.2.3"  # files of the same tags have the same length
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    if pixels is not None:
        dataset.Rows, dataset.Columns = pixels.shape[-2:]
        dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored = 1, 16, 16
        dataset.HighBit, dataset.PixelRepresentation = 15, int(pixels.dtype.kind == "i")
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW"
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    return as_bytes(dataset)


def as_bytes(dataset):
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def compressed(frames, syntax, *, shape=(32, 32), bits=8, **tags):
    """A film, by default, whose frames are compressed."""
    tags = {
        "Modality": "CR",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        **tags,
    }
    data = dicom_bytes(np.zeros(shape, np.uint16), **tags)
    whole = pydicom.dcmread(io.BytesIO(data))
    whole.file_meta.TransferSyntaxUID = syntax
    whole.PixelData = pydicom.encaps.encapsulate([frames] if isinstance(frames, bytes) else frames)
    whole["PixelData"].VR = "OB"
    whole["PixelData"].is_undefined_length = True
    return as_bytes(whole)


def item(**tags):
    """The data set that an item of a sequence holds."""
    dataset = Dataset()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def functional_groups(*, slope=None, intercept=None, window=None, position=None, orientation=None):
    """An item of functional groups, as enhanced objects have them."""
    groups = item()
    if slope is not None:
        values = item(RescaleSlope=slope, RescaleIntercept=intercept)
        groups.PixelValueTransformationSequence = [values]
    if window:
        groups.FrameVOILUTSequence = [item(WindowCenter=window[0], WindowWidth=window[1])]
    if position:
        groups.PlanePositionSequence = [item(ImagePositionPatient=position)]
    if orientation:
        groups.PlaneOrientationSequence = [item(ImageOrientationPatient=orientation)]
    return groups
