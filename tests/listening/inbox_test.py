"""Received series: answered once, whatever happens; what cannot be screened stops nothing."""

import csv
import errno
import os
import pathlib
import signal
import sys
import time

import numpy as np
import pydicom
import pytest
import runs
from dicom_series import (
    NAME,
    PATIENT,
    SHAPE,
    Blind,
    Bright,
    assert_valid,
    ct_slice,
    left_in,
    open_answers,
    read_rows,
    real_slices,
    receive,
    series,
    uids,
)

from jaxcovid.data import dicom
from jaxcovid.listening.inbox import Inbox, InboxLimits, RefusedError
from jaxcovid.listening.results_table import COLUMNS, ResultsTable

highdicom = pytest.importorskip("highdicom")
CHILD = pathlib.Path(__file__).with_name("inbox_child.py")


def open_inbox(results, network=None, **options):
    return Inbox(results, open_answers(results, network), quiet_s=0, **options)


def answer_of(results):
    (row,) = read_rows(results)
    return row, results / "answers" / row["answer"]


def test_a_series_gets_a_picture_a_segmentation_and_a_row(tmp_path):
    files = series("a")
    inbox = open_inbox(tmp_path)
    receive(inbox, *files)
    assert inbox.waiting == 1
    assert inbox.screen_due() == 1
    row, folder = answer_of(tmp_path)
    assert (row["images"], row["patient"], row["error"]) == ("3", PATIENT, "")
    probabilities = [Bright().read_gray(data).mean() / 255 for data in files]
    assert float(row["probability"]) == pytest.approx(np.mean(probabilities), abs=1e-6)
    assert row["decision"] == ("" if np.mean(probabilities) >= 0.4 else "not ") + "COVID-19"
    assert 0 < float(row["involved"]) < 1
    names = {path.name for path in folder.iterdir()}
    assert names == {"secondary_capture.dcm", "segmentation.dcm", "answer.json"}
    assert_valid(folder / "segmentation.dcm", "Segmentation")
    assert_valid(folder / "secondary_capture.dcm", "SCImage")
    assert not left_in(tmp_path, "inbox", "working", "failed"), "sources are removed"
    assert not list((tmp_path / "working").iterdir())

    source = pydicom.dcmread(folder / "secondary_capture.dcm")
    brightest = pydicom.dcmread(pydicom.filebase.DicomBytesIO(files[int(np.argmax(probabilities))]))
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "PatientSex"):
        assert source[keyword].value == brightest[keyword].value, keyword
    assert source.SeriesInstanceUID != brightest.SeriesInstanceUID
    (shown,) = source.SourceImageSequence
    assert shown.ReferencedSOPInstanceUID == brightest.SOPInstanceUID
    assert "RESEARCH ONLY - NOT FOR DIAGNOSIS" in source.ImageComments
    assert "Network: bright" in source.ImageComments
    assert f"{float(row['probability']):.3f}" in source.ImageComments
    pixels = source.pixel_array
    assert pixels.shape[1] == 2 * 512, "heatmap and contours side by side"
    assert (pixels[:100] == 255).all(-1).any(), "text"
    segmentation = highdicom.seg.segread(folder / "segmentation.dcm")
    assert segmentation.StudyInstanceUID == brightest.StudyInstanceUID
    assert segmentation.pixel_array.shape[1:] == SHAPE


def test_answers_are_readable_by_the_projects_own_reader(tmp_path):
    inbox = open_inbox(tmp_path)
    receive(inbox, *series("a"))
    inbox.screen_due()
    _, folder = answer_of(tmp_path)
    for name, modality in (("secondary_capture.dcm", "OT"), ("segmentation.dcm", "SEG")):
        header = dicom.header_of(folder / name)
        assert (header.modality, header.patient) == (modality, PATIENT)
    frames = dicom.header_of(folder / "segmentation.dcm").frames
    assert frames == len(pydicom.dcmread(folder / "segmentation.dcm").pixel_array)


def test_a_network_that_only_classifies_makes_a_picture_alone(tmp_path):
    inbox = open_inbox(tmp_path, Blind())
    receive(inbox, ct_slice("a"))
    inbox.screen_due()
    row, folder = answer_of(tmp_path)
    assert (row["images"], row["involved"]) == ("1", "")
    assert {path.name for path in folder.iterdir()} == {"secondary_capture.dcm", "answer.json"}
    assert_valid(folder / "secondary_capture.dcm", "SCImage")


@pytest.mark.parametrize(
    "tags",
    [
        {"PatientSex": "unclear", "PatientName": "Only"},
        {"PatientName": "Ä^Ö", "SpecificCharacterSet": "ISO_IR 100"},
        {"PatientName": None, "PatientID": None, "PatientSex": None},
    ],
)
def test_odd_patients_get_a_picture_without_a_word_on_stderr(tags, tmp_path, capfd, recwarn):
    inbox = open_inbox(tmp_path, Blind())
    receive(inbox, *series("a", **tags))
    inbox.screen_due()
    _, folder = answer_of(tmp_path)
    assert_valid(folder / "secondary_capture.dcm", "SCImage")
    said = pydicom.dcmread(folder / "secondary_capture.dcm")
    assert str(said.PatientName) == (tags["PatientName"] or "")
    assert capfd.readouterr().err.count("Only") == 0
    assert not [each for each in recwarn if "Only" in str(each.message)]


def test_series_are_kept_apart_and_late_slices_are_another_batch(tmp_path):
    inbox = open_inbox(tmp_path)
    a, b = series("a"), series("b", 2)
    receive(inbox, *[data for pair in zip(a, b, strict=False) for data in pair], a[2])
    assert inbox.screen_due() == 2
    assert sorted(row["images"] for row in read_rows(tmp_path)) == ["2", "3"]
    receive(inbox, ct_slice("a", 7))
    inbox.screen_due()
    assert [row["images"] for row in read_rows(tmp_path)][2:] == ["1"]


def test_a_series_waits_until_nothing_has_come_for_a_while(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    inbox = Inbox(tmp_path, open_answers(tmp_path), quiet_s=5)
    receive(inbox, ct_slice("a", 0))
    now += 4
    receive(inbox, ct_slice("a", 1))
    now += 4
    assert inbox.screen_due() == 0
    now += 1
    assert inbox.screen_due() == 1
    assert read_rows(tmp_path)[0]["images"] == "2"


def test_what_was_answered_gets_no_second_answer(tmp_path):
    inbox = open_inbox(tmp_path)
    for _ in range(2):
        receive(inbox, *series("a"), *series("a"))
        assert inbox.screen_due() == 1
    answer_of(tmp_path)
    assert len(list((tmp_path / "answers").iterdir())) == 1


@pytest.mark.parametrize(
    ("limits", "count"),
    [({"object_bytes": 2000}, 0), ({"series_objects": 2}, 2), ({"inbox_bytes": 4500}, 1)],
)
def test_too_much_is_out_of_resources(limits, count, tmp_path):
    files = series("a")
    assert 2250 < len(files[0]) < 4400
    inbox = open_inbox(tmp_path, limits=InboxLimits(**limits))
    receive(inbox, *files[:count])
    for _ in range(2):
        with pytest.raises(RefusedError) as refused:
            receive(inbox, files[2])
        assert refused.value.status == 0xA700
    assert len(left_in(tmp_path, "inbox")) == count
    if count:
        receive(inbox, files[0])  # what is there may come again
        inbox.screen_due()
        receive(inbox, files[2])  # there is room again


def test_failed_series_count_until_a_person_removes_them(tmp_path):
    inbox = open_inbox(tmp_path, limits=InboxLimits(inbox_bytes=4500))
    receive(inbox, ct_slice("a", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    inbox.screen_due()
    with pytest.raises(RefusedError, match="full"):
        receive(inbox, ct_slice("b"))
    for path in (tmp_path / "failed").glob("*/*"):
        path.unlink()
    receive(inbox, ct_slice("b"))


def test_a_full_disk_is_out_of_resources_and_answers_wait(tmp_path, monkeypatch):
    inbox = open_inbox(tmp_path)
    receive(inbox, ct_slice("a"))

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("jaxcovid.listening.inbox.write_atomically", full)
        patch.setattr("jaxcovid.listening.answers.write_atomically", full)
        with pytest.raises(RefusedError, match="disk") as refused:
            receive(inbox, ct_slice("a", 1))
        assert refused.value.status == 0xA700
        assert inbox.screen_due() == 0
    assert inbox.waiting == 1
    assert not left_in(tmp_path, "failed", "answers")
    monkeypatch.setattr("jaxcovid.listening.inbox.RETRY_S", 0)
    inbox._retry.clear()
    assert inbox.screen_due() == 1
    answer_of(tmp_path)


def test_a_later_batch_waits_for_the_one_that_the_disk_stopped(tmp_path, monkeypatch):
    inbox = open_inbox(tmp_path)
    receive(inbox, *series("a"))

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("jaxcovid.listening.answers.write_atomically", full)
        assert inbox.screen_due() == 0
    receive(inbox, ct_slice("a", 7), ct_slice("b"))
    assert inbox.screen_due() == 1
    assert inbox.waiting == 2
    inbox._retry.clear()
    assert inbox.screen_due() == 2
    assert [row["images"] for row in read_rows(tmp_path)] == ["1", "3", "1"]


NO_IMAGES = {
    "no DICOM": (b"\0" * 4000, "1", "1"),
    "cut short": (ct_slice("a")[:-100], *uids(ct_slice("a"))),
    "cut in the header": (ct_slice("a")[:700], *uids(ct_slice("a"))),
    "another instance": (ct_slice("a"), uids(ct_slice("a"))[0], "1.2.3.4"),
    "another class": (ct_slice("a"), "1.2.840.10008.5.1.4.1.1.1", uids(ct_slice("a"))[1]),
    "without a series": (ct_slice("a", SeriesInstanceUID=None), *uids(ct_slice("a"))),
    "a film": (ct_slice("a", Modality="DX"), *uids(ct_slice("a"))),
}


@pytest.mark.parametrize("case", NO_IMAGES)
def test_wrong_objects_are_not_understood(case, tmp_path):
    inbox = open_inbox(tmp_path)
    with pytest.raises(RefusedError) as refused:
        inbox.receive(*NO_IMAGES[case])
    assert 0xC000 <= refused.value.status <= 0xCFFF
    assert not left_in(tmp_path, "inbox")


def test_names_of_files_are_never_the_senders(tmp_path):
    inbox = open_inbox(tmp_path / "results")
    data = ct_slice("a", SeriesInstanceUID="../../../x", SOPInstanceUID="../../y")
    inbox.receive(data, uids(data)[0], "../../y")
    (path,) = (tmp_path / "results" / "inbox").glob("*/*")
    assert len(path.stem) == len(path.parent.name) == 32
    assert path.read_bytes() == data
    assert [each.name for each in tmp_path.iterdir()] == ["results"]


SCOUT = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([ct_slice("a", **SCOUT)], "scouts"),
        ([ct_slice("a"), ct_slice("a", 1, PatientID="other")], "2 patients"),
        ([ct_slice("a", RescaleSlope=None)], "RescaleSlope"),
    ],
)
def test_what_cannot_be_screened_is_put_aside_with_the_reason(files, reason, tmp_path, caplog):
    inbox = open_inbox(tmp_path)
    receive(inbox, *files, *series("good"))
    assert inbox.screen_due() == 2
    row, _ = answer_of(tmp_path)
    assert row["images"] == "3"
    (folder,) = (tmp_path / "failed").iterdir()
    assert reason in (folder / "reason.txt").read_text()
    assert len(list(folder.glob("*.dcm"))) == len(files)
    # Moved back it is tried again, whatever else came to failed/ before.
    folder.rename(tmp_path / "inbox" / folder.name)
    inbox.screen_due()
    assert len(list((tmp_path / "failed").iterdir())) == 1
    assert NAME not in caplog.text
    assert PATIENT not in caplog.text


def test_a_network_that_fails_stops_nothing(tmp_path):
    class Broken(Bright):
        def probabilities(self, images):
            raise RuntimeError("out of memory")

    inbox = open_inbox(tmp_path, Broken())
    receive(inbox, *series("a"))
    assert inbox.screen_due() == 1
    (folder,) = (tmp_path / "failed").iterdir()
    assert "out of memory" in (folder / "reason.txt").read_text()
    assert not left_in(tmp_path, "answers")


def test_what_crashes_the_program_is_put_aside_at_last(tmp_path):
    environment = {**os.environ, "JAXCOVID_TEST_PAUSE_S": "0"}
    environment["PYTHONPATH"] += os.pathsep + str(CHILD.parents[1])
    words = [sys.executable, CHILD, tmp_path, "dicom_series.Bright.probabilities", "1"]
    for _ in range(3):
        assert runs.run(words, env=environment).returncode == -signal.SIGKILL
    assert runs.run(words[:3], env=environment).returncode == 0
    answer_of(tmp_path)
    (folder,) = (tmp_path / "failed").iterdir()
    assert "ended 3 times" in (folder / "reason.txt").read_text()


def test_an_answer_without_a_segmentation_says_so(tmp_path):
    inbox = open_inbox(tmp_path)
    receive(inbox, *series("a", ImagePositionPatient=None))
    inbox.screen_due()
    row, folder = answer_of(tmp_path)
    assert "without ImagePositionPatient" in row["error"]
    assert {path.name for path in folder.iterdir()} == {"secondary_capture.dcm", "answer.json"}


def test_sources_are_kept_on_demand(tmp_path):
    inbox = open_inbox(tmp_path, keep_sources=True)
    files = series("a")
    receive(inbox, *files)
    inbox.screen_due()
    row, _ = answer_of(tmp_path)
    kept = [path.read_bytes() for path in (tmp_path / "kept" / row["answer"]).iterdir()]
    assert sorted(kept) == sorted(files)


def row_of(answer, **more):
    return dict.fromkeys(COLUMNS, "") | {"answer": answer} | more


def test_a_table_that_was_cut_short_is_mended(tmp_path):
    path = tmp_path / "results.csv"
    table = ResultsTable(path)
    assert table.append(row_of("1", patient="=1+1", error='a\n"b",c'))
    assert table.append(row_of("2"))
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        table = ResultsTable(path)
        table.append(row_of("1", patient="=1+1", error='a\n"b",c'))
        table.append(row_of("2"))
        assert not table.append(row_of("2"))
        assert path.read_bytes() == whole
    with path.open(newline="") as file:
        first, _ = csv.DictReader(file)
    assert (first["patient"], first["error"]) == ("'=1+1", 'a "b",c')
    path.write_text("other,table\n")
    with pytest.raises(ValueError, match="is another table"):
        ResultsTable(path)


# Where a program is killed: after what call, at which time of it.
STEPS = {
    "received": ("jaxcovid.listening.inbox.write_atomically", 2),
    "moved": ("pathlib.Path.rename", 1),
    "screened": ("jaxcovid.listening.secondary_capture.draw", 1),
    "written": ("pathlib.Path.rename", 2),
    "in the table": ("jaxcovid.listening.results_table.ResultsTable.append", 1),
    "hidden": ("pathlib.Path.rename", 3),
    "half removed": ("os.unlink", 1),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_program_answers_each_series_once(step, tmp_path):
    """Killed with SIGKILL at each step of a series, started again, and again after that."""
    environment = {**os.environ, "JAXCOVID_TEST_PAUSE_S": "0"}
    environment["PYTHONPATH"] += os.pathsep + str(CHILD.parents[1])

    def run(*words):
        return runs.run([sys.executable, CHILD, tmp_path, *map(str, words)], env=environment)

    process = run(*STEPS[step])
    assert process.returncode == -signal.SIGKILL, process.stderr
    for _ in range(2):
        process = run()
        assert process.returncode == 0, process.stderr
        rows = read_rows(tmp_path)
        assert sorted(row["images"] for row in rows) == ["2", "3"]
        answers = list((tmp_path / "answers").iterdir())
        assert sorted(path.name for path in answers) == sorted(row["answer"] for row in rows)
        assert not left_in(tmp_path, "inbox", "working", "failed")


def test_real_series_are_answered(tmp_path):
    """JPEG Lossless; three series have an id that is no valid UID."""
    paths = real_slices()
    inbox = open_inbox(tmp_path)
    for path in paths:
        inbox.receive(path.read_bytes(), *uids(path.read_bytes()))
    count = inbox.waiting
    assert inbox.screen_due() == count
    assert not left_in(tmp_path, "failed")
    rows = read_rows(tmp_path)
    assert sum(int(row["images"]) for row in rows) == len(paths)
    for row in rows:
        assert row["error"] == ""
        folder = tmp_path / "answers" / row["answer"]
        highdicom.seg.segread(folder / "segmentation.dcm")
        if pydicom.uid.UID(row["study"]).is_valid and pydicom.uid.UID(row["series"]).is_valid:
            assert_valid(folder / "segmentation.dcm", "Segmentation")
            assert_valid(folder / "secondary_capture.dcm", "SCImage")
