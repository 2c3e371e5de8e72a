import concurrent.futures
import multiprocessing
import os
import pathlib
import pickle

import cv2
import numpy as np
import pytest

from jaxcovid.data import image_cache, pipeline
from jaxcovid.data.ablations import ABLATIONS, Ablation
from jaxcovid.data.image_error import ImageError
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.runtime.files import as_path

DIGEST = "0" * 64


class Records(list):
    """Records, of which those that are None cannot even be read."""

    def __getitem__(self, index):
        record = super().__getitem__(index)
        if record is None:
            raise ImageError(f"record {index} cannot be read")
        return record


def records(count=6):
    """Images of several shapes, with lung masks."""
    random, made = np.random.default_rng(0), Records()
    for i in range(count):
        gray = random.integers(0, 256, (30 + i, 40), np.uint8)
        png, mask = (cv2.imencode(".png", x)[1].tobytes() for x in (gray, (gray > 99) * 255))
        made.append({"id": f"r{i}", "label": i, "image": png, "lung_mask": mask})
    return made


def label(record):
    return np.float32([record["label"]])


def cached(source, cache, folder):
    (split,) = image_cache.cache_images(
        {"train": source}, cache=cache, folder=folder, digest=DIGEST
    ).values()
    return split


def batches(source, count=3, *, ablation=None, workers=0, **options):
    loading = pipeline.Loading(
        preprocessing=Preprocessing(size=32), batch_size=4, ablation=ablation, workers=workers
    )
    made = pipeline.train_batches(source, loading, target=label, seed=1, **options)
    return [next(made) for _ in range(count)]


def assert_equal(left, right):
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_batches_are_the_same_with_and_without(cache, tmp_path, monkeypatch):
    plain = records()
    source = cached(plain, cache, tmp_path)
    ablations = [None, *(Ablation(name) for name in ABLATIONS)]
    places = pipeline.PREPROCESS_ON
    expected = [batches(plain, ablation=a, preprocess_on=p) for a in ablations for p in places]
    loading = pipeline.Loading(preprocessing=Preprocessing(size=32), batch_size=4)
    evaluated = list(pipeline.eval_batches(plain, loading))
    monkeypatch.setattr(pipeline, "decode_gray", None)  # nothing is decoded any more
    found = [batches(source, ablation=a, preprocess_on=p) for a in ablations for p in places]
    for left, right in zip(expected, found, strict=True):
        assert_equal(left, right)
    assert_equal(evaluated, list(pipeline.eval_batches(source, loading)))


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_worker_processes_map_the_same_file(cache, tmp_path):
    plain = records()
    source = cached(plain, cache, tmp_path)
    for place in pipeline.PREPROCESS_ON:
        expected = batches(plain, preprocess_on=place)
        assert_equal(expected, batches(source, workers=2, preprocess_on=place))
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[3]["gray"], source[3]["gray"])


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_bad_records_are_met_as_without(cache, tmp_path):
    plain = records()
    plain[1] = {**plain[1], "image": b"no image"}
    plain[4] = None
    source = cached(plain, cache, tmp_path)
    assert "gray" not in source[1]
    assert_equal(batches(plain, bad_records="skip"), batches(source, bad_records="skip"))
    with pytest.raises(ImageError, match=r"r1: no readable image|record 4 cannot be read"):
        batches(source)


def test_later_runs_find_what_is_on_disk(tmp_path, monkeypatch):
    cached(records(), "disk", tmp_path)
    monkeypatch.setattr(image_cache, "decode_gray", None)
    assert cached(records(), "disk", tmp_path)[5]["gray"].shape == (35, 40)
    name = image_cache.file_name("train", DIGEST)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    others = [image_cache.file_name(*key) for key in (("train", "1" * 64), ("test", DIGEST))]
    assert len({name, *others}) == 3


def test_what_a_killed_run_left_does_no_harm(tmp_path):
    path = tmp_path / image_cache.file_name("train", DIGEST)
    left = path.with_name(f".{path.name}.0.tmp")
    left.write_bytes(b"half")
    assert cached(records(), "disk", tmp_path)[0]["gray"].shape == (30, 40)
    assert {*tmp_path.iterdir()} == {path, left}


def test_a_damaged_file_is_named(tmp_path):
    cached(records(), "disk", tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:100], b"", b"\0" * 300):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{path} is damaged .*delete it"):
            cached(records(), "disk", tmp_path)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="6 images"):
        cached(records(7), "disk", tmp_path)


def fill(folder):
    """In a process of its own."""
    source = cached(records(), "disk", pathlib.Path(folder))
    return [source[i]["gray"].sum() for i in range(len(source))]


def test_processes_that_start_at_once_make_one_file(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(3, mp_context=spawn) as pool:
        sums = list(pool.map(fill, [tmp_path] * 3))
    assert sums[0] == sums[1] == sums[2]
    assert len([*tmp_path.iterdir()]) == 1


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(OSError, match=r"cannot write decoded images .*cache=memory or none"):
        cached(records(), "disk", pathlib.Path("/proc"))
    with pytest.raises(ValueError, match=r"no folder of a file system.*cache=memory"):
        cached(records(), "disk", as_path("gs://bucket/data"))


def test_more_than_the_free_memory_is_refused_before_it_is_filled(monkeypatch, tmp_path):
    monkeypatch.setattr(image_cache, "available_bytes", lambda: 9000)
    monkeypatch.setattr(image_cache, "_decode_into", None)
    with pytest.raises(ValueError, match=r"about 0\.00 GiB.*at most 0\.00 GiB, 80%.*cache=disk"):
        cached(records(), "memory", tmp_path)


def test_images_larger_than_the_sample_promised_are_refused(monkeypatch, tmp_path):
    source = records()
    small = cv2.imencode(".png", np.eye(16, dtype=np.uint8))[1].tobytes()
    source[2] = {**source[2], "image": small}  # the one in the middle
    monkeypatch.setattr(image_cache, "available_bytes", lambda: 5000)
    monkeypatch.setattr(image_cache, "_SAMPLE", 1)
    with pytest.raises(ValueError, match="more than"):
        cached(source, "memory", tmp_path)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux alone has files without a name")
def test_no_process_leaves_memory_behind(tmp_path):
    source = cached(records(), "memory", tmp_path)
    path = source.__reduce__()[1][1]
    assert path.stat().st_nlink == 0
    del source
    assert not path.exists()


def test_an_unknown_cache(tmp_path):
    with pytest.raises(ValueError, match="cache is 'ram'; use one of none, memory, disk"):
        cached(records(), "ram", tmp_path)
