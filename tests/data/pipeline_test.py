import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import runs

from jaxcovid.data import pipeline
from jaxcovid.data.decoding import ImageError
from jaxcovid.data.preprocessing import Preprocessing

SMALL = Preprocessing(size=32)


def records(count):
    rng = np.random.default_rng(0)
    return [
        {
            "id": f"r{i}",
            "label": i % 3,
            "image": cv2.imencode(".png", rng.integers(0, 255, (40, 50), np.uint8))[1].tobytes(),
        }
        for i in range(count)
    ]


def label(record):
    return np.float32([record["label"]])


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def train(source, **options):
    """Training batches; options are fields of `Loading` or arguments of `train_batches`."""
    fields = {"preprocessing": SMALL, "batch_size": 4}
    for field in dataclasses.fields(pipeline.Loading):
        if field.name in options:
            fields[field.name] = options.pop(field.name)
    loading = pipeline.Loading(**fields)
    return pipeline.train_batches(source, loading, **{"target": label, "seed": 1, **options})


def assert_equal(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_batches_are_a_function_of_seed_and_step():
    source = records(10)
    first = take(train(source), 8)
    assert_equal(first, take(train(source), 8))
    assert_equal(first[5:], take(train(source, start_step=5), 3))
    assert not np.array_equal(first[0]["image"], next(train(source, seed=2))["image"])
    assert first[0]["image"].shape == (4, 32, 32, 1)
    assert first[0]["image"].dtype == np.float32


def test_batches_of_one_image():
    one, two = train(records(5), batch_size=1), train(records(5), batch_size=2)
    pair = next(two)
    for row in range(2):
        np.testing.assert_array_equal(next(one)["image"][0], pair["image"][row])


def test_every_epoch_holds_every_record_once_in_another_order_and_augmentation():
    source = records(8)
    marked = [{**r, "label": i} for i, r in enumerate(source)]
    batches = take(train(marked), 4)
    labels = np.concatenate([b["target"] for b in batches]).reshape(2, 8)
    assert [sorted(epoch) for epoch in labels.tolist()] == [list(range(8))] * 2
    assert labels[0].tolist() != labels[1].tolist()
    images = np.concatenate([b["image"] for b in batches])
    first, second = (images[list(np.flatnonzero(labels.ravel() == 3))[k]] for k in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_resume_is_exact_for_any_number_of_workers(workers):
    source = records(10)
    expected = take(train(source), 7)
    assert_equal(expected[3:], take(train(source, start_step=3, workers=workers), 4))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_each_global_batch_in_contiguous_rows(processes):
    source = records(10)
    whole = take(train(source, start_step=2), 5)
    shares = [
        take(train(source, start_step=2, process_index=p, process_count=processes), 5)
        for p in range(processes)
    ]
    joined = [
        {key: np.concatenate([share[i][key] for share in shares]) for key in whole[0]}
        for i in range(5)
    ]
    assert_equal(whole, joined)


@pytest.mark.parametrize(("count", "processes"), [(10, 1), (10, 2), (8, 2), (1, 4)])
def test_evaluation_counts_every_record_once(count, processes):
    source = records(count)
    seen, batches = [], set()
    for p in range(processes):
        loading = pipeline.Loading(
            preprocessing=SMALL, batch_size=4, process_index=p, process_count=processes
        )
        batches_of_host = list(pipeline.eval_batches(source, loading))
        batches.add(len(batches_of_host))
        for batch in batches_of_host:
            assert batch["image"].shape == (4 // processes, 32, 32, 1)
            seen += batch["index"][batch["mask"]].tolist()
    assert sorted(seen) == list(range(count))
    assert len(batches) == 1, "every process needs the same number of batches"


def test_a_bad_image_names_its_record():
    source = records(4)
    source[2]["image"] = b"not an image"
    with pytest.raises(ImageError, match="r2"):
        take(train(source), 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 5, "process_count": 2}, "use 6"),
        ({"workers": -1}, "workers is -1"),
        ({"preprocess_on": "gpu"}, "'gpu'; use one of host, device"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ValueError, match=message):
        train(records(4), **options)


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match="empty"):
        train([])


_ENDLESS = """
import sys, time
sys.path[:0] = {folders!r}
from absl import flags
from pipeline_test import records, train
if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    batches = train(records(10), workers=2)
    next(batches)
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "endless.py"
    folders = [str(folder) for folder in pathlib.Path(__file__).parents[:2]]
    script.write_text(_ENDLESS.format(folders=folders))
    parent = runs.popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "ready\n"

    workers = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            ours = f"\nPPid:\t{parent.pid}\n" in (folder / "status").read_text()
            if ours and "spawn_main" in (folder / "cmdline").read_text():
                workers.append(folder)
    assert len(workers) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + runs.TIMEOUT_S
    while any(folder.exists() for folder in workers) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(folder.exists() for folder in workers)


def test_two_views_of_each_image_are_two_draws():
    source = records(6)
    (batch,) = take(train(source, views=True), 1)
    assert batch["image"].shape == (4, 2, 32, 32, 1)
    assert all(np.abs(left - right).max() > 0.1 for left, right in batch["image"])
    # The first is what a training without views sees.
    (plain,) = take(train(source), 1)
    np.testing.assert_array_equal(batch["image"][:, 0], plain["image"])


def test_views_of_an_evaluation_are_the_same_each_time_and_for_any_batch():
    source = records(6)
    images = [
        np.concatenate(
            [
                batch["image"][batch["mask"]]
                for batch in pipeline.eval_batches(
                    source,
                    pipeline.Loading(preprocessing=SMALL, batch_size=size, views=True),
                )
            ]
        )
        for size in (4, 6)
    ]
    assert images[0].shape == (6, 2, 32, 32, 1)
    np.testing.assert_array_equal(*images)
    assert all(np.abs(left - right).max() > 0.1 for left, right in images[0])
