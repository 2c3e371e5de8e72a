"""A folder of somebody else: each image answered once, nothing in it changed."""

import errno
import io
import pathlib
import shutil
import time

import cv2
import nibabel
import numpy as np
import pydicom
import pytest
from dicom_series import (
    PATIENT,
    Bright,
    assert_valid,
    ct_slice,
    open_answers,
    read_rows,
    real_slices,
    series,
)

from jaxcovid.listening import service
from jaxcovid.listening.screener import Screener
from jaxcovid.listening.watched_folder import WatchedFolder

pytest.importorskip("highdicom")


def watch(tmp_path, quiet_s=0):
    """A folder that is watched, made anew as after a start."""
    results, folder = tmp_path / "results", tmp_path / "incoming"
    folder.mkdir(exist_ok=True)
    answers = open_answers(results)
    return folder, WatchedFolder(folder, results, answers, quiet_s=quiet_s)


def write(folder, name, data):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def write_others(folder):
    """A picture and a volume, and what is no image."""
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "picture.png"), rng.integers(0, 256, (40, 50), np.uint8))
    values = rng.integers(-1000, 300, (40, 30, 4)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1, -1, 5, 1])), folder / "scan.nii.gz")
    write(folder, "notes.txt", b"no image")
    write(folder, ".hidden.dcm", ct_slice("h"))
    write(folder, "scout.dcm", ct_slice("s", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    (folder / "link.png").symlink_to(folder / "picture.png")


def contents(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.*")}


def test_series_pictures_and_volumes_are_answered_once_and_stay(tmp_path):
    folder, watched = watch(tmp_path)
    for number, data in enumerate(series("a")):
        write(folder, f"below/{number}.dcm", data)
    write_others(folder)
    before = contents(folder)
    assert watched.screen_due() == 3
    assert watched.screen_due() == watched.waiting == 0
    _, again = watch(tmp_path)
    assert again.screen_due() == 0
    assert contents(folder) == before
    rows = {row["source"]: row for row in read_rows(tmp_path / "results")}
    assert {name: row["images"] for name, row in rows.items()} == {
        "below": "3",
        "picture.png": "1",
        "scan.nii.gz": "4",
    }
    assert rows["below"]["patient"] == PATIENT
    made = {
        name: {path.name for path in (tmp_path / "results/answers" / row["answer"]).iterdir()}
        for name, row in rows.items()
    }
    assert made == {
        "below": {"answer.json", "secondary_capture.dcm", "segmentation.dcm"},
        "picture.png": {"answer.json", "picture.png", "segmentation.png"},
        "scan.nii.gz": {"answer.json", "picture.png", "segmentation.nii.gz"},
    }
    answer = tmp_path / "results/answers" / rows["below"]["answer"]
    assert_valid(answer / "secondary_capture.dcm", "SCImage")


def test_a_file_counts_when_it_has_not_changed_for_a_while(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    folder, watched = watch(tmp_path, quiet_s=5)
    data = ct_slice("a")
    write(folder, "a.dcm", data[:-500])
    for step in range(3):
        assert watched.screen_due() == 0
        now += 4
        write(folder, "a.dcm", data[: -500 + 250 * step] if step < 2 else data)
    assert watched.screen_due() == 0
    assert watched.waiting == 1
    now += 5
    assert watched.screen_due() == 1
    (row,) = read_rows(tmp_path / "results")
    assert (row["images"], row["error"]) == ("1", "")


def test_a_series_that_grows_is_answered_anew_as_a_whole(tmp_path):
    folder, watched = watch(tmp_path)
    slices = series("a")
    write(folder, "0.dcm", slices[0])
    write(folder, "1.dcm", slices[1])
    watched.screen_due()
    write(folder, "2.dcm", slices[2])
    watched.screen_due()
    assert [row["images"] for row in read_rows(tmp_path / "results")] == ["2", "3"]


def test_what_cannot_be_screened_is_noted_once(tmp_path):
    folder, watched = watch(tmp_path)
    write(folder, "broken.png", b"no picture")
    write(folder, "broken.dcm", ct_slice("a")[:-100])
    write(folder, "good.dcm", ct_slice("b"))
    assert watched.screen_due() == 3
    _, again = watch(tmp_path)
    assert again.screen_due() == 0
    texts = [path.read_text() for path in (tmp_path / "results/failed").glob("*.txt")]
    assert sorted("broken.png" in text for text in texts) == [False, True]
    assert len(read_rows(tmp_path / "results")) == 1
    # Mended it is another file.
    write(folder, "broken.dcm", ct_slice("a"))
    assert again.screen_due() == 1


@pytest.fixture
def lock_files(monkeypatch):
    """Makes the files of these names unreadable, for root as well; returns the names."""
    names, really = set(), pathlib.Path.open

    def opened(path, *arguments, **options):
        if path.name in names:
            raise OSError(errno.EIO, "Input/output error")
        return really(path, *arguments, **options)

    monkeypatch.setattr(pathlib.Path, "open", opened)
    return names


def test_files_that_cannot_be_read_are_tried_again(tmp_path, lock_files, caplog):
    folder, watched = watch(tmp_path)
    for name in "abc":
        write(folder, f"{name}.dcm", ct_slice(name))
    lock_files |= {"a.dcm", "b.dcm"}
    assert [watched.screen_due() for _ in range(3)] == [1, 0, 0]
    assert (watched.waiting, watched.unreadable) == (0, 2)
    assert caplog.text.count("2 watched files cannot be read") == 1
    assert not list((tmp_path / "results/failed").iterdir())
    lock_files.clear()
    assert watched.screen_due() == 2
    assert len(read_rows(tmp_path / "results")) == 3


def test_once_ends_with_the_number_of_files_that_cannot_be_read(tmp_path, lock_files):
    folder = tmp_path / "incoming"
    for name in "abc":
        write(folder, f"{name}.dcm", ct_slice(name))
    lock_files |= {"a.dcm", "b.dcm"}
    node = service.Service(tmp_path / "results", watch=folder, quiet_s=0.1)
    with pytest.raises(ValueError, match="2 watched files cannot be read; all others"):
        service.run(Screener(Bright(), "bright"), node)
    assert len(read_rows(tmp_path / "results")) == 1


@pytest.mark.parametrize("lost", ["state", "row", "part of the state"])
def test_a_killed_program_answers_once(lost, tmp_path):
    """What is on the disk between two steps of an answer, and a line that was cut short."""
    folder, watched = watch(tmp_path)
    write(folder, "a.dcm", ct_slice("a"))
    watched.screen_due()
    results = tmp_path / "results"
    whole = (results / "results.csv").read_bytes()
    state = results / "watched.jsonl"
    state.write_bytes(state.read_bytes()[:-5] if lost == "part of the state" else b"")
    if lost == "row":
        (results / "results.csv").write_bytes(whole[: whole.index(b"\n") + 20])
    for expected in (1, 0):
        _, again = watch(tmp_path)
        assert again.screen_due() == expected
        assert (results / "results.csv").read_bytes() == whole
        assert len(list((results / "answers").iterdir())) == 1


def test_folders_inside_one_another_are_refused(tmp_path):
    for folder, results in ((tmp_path, tmp_path / "r"), (tmp_path / "r" / "in", tmp_path / "r")):
        folder.mkdir(exist_ok=True, parents=True)
        with pytest.raises(ValueError, match="would be watched too"):
            WatchedFolder(folder, results, open_answers(results))
    with pytest.raises(FileNotFoundError):
        WatchedFolder(tmp_path / "none", tmp_path / "r", open_answers(tmp_path / "r"))


def test_once_answers_what_is_there_and_ends(tmp_path):
    folder, _ = watch(tmp_path)
    shutil.rmtree(tmp_path / "results")
    write(folder, "a.dcm", ct_slice("a"))
    node = service.Service(tmp_path / "results", watch=folder, quiet_s=0.1)
    service.run(Screener(Bright(), "bright"), node)
    assert len(read_rows(tmp_path / "results")) == 1


def test_a_real_folder(tmp_path):
    shutil.copytree(real_slices()[0].parents[2], tmp_path / "incoming")
    folder, watched = watch(tmp_path)
    paths = list(folder.rglob("*.dcm"))
    found = {pydicom.dcmread(io.BytesIO(p.read_bytes())).SeriesInstanceUID for p in paths}
    assert watched.screen_due() == len(found)
    rows = read_rows(tmp_path / "results")
    assert {row["series"] for row in rows} == found
    assert sum(int(row["images"]) for row in rows) == len(paths)
