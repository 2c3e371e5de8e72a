"""What `python -m jaxcovid.status` makes of the signs of life in a workdir."""

import json

import pytest

from jaxcovid.workdir import heartbeat, status

NOW = 1_800_000_000.0


@pytest.fixture
def workdir(tmp_path):
    facts = {
        "format_version": 3,
        "config": {
            "network": "deep_ct_net",
            "task": "binary",
            "ablation": "none",
            "uncertain": {"ones": [], "ignore": []},
            **{name: {} for name in ("model", "fusion", "parts", "preprocessing")},
        },
        "dataset": {"name": "d", "modality": "CT", "window": [-600, 1500], "class_names": []},
        "outputs": ["COVID-19"],
    }
    (tmp_path / "run.json").write_text(json.dumps(facts))
    return tmp_path


def beat(workdir, process, processes=2, **changes):
    facts = {
        "process": process,
        "processes": processes,
        "host": f"n{process}",
        "pid": 10 + process,
        "total_steps": 1000,
        "state": "training",
        "step": 250,
        "seconds_per_step": 2.0,
        "images_per_s": 9.0,
        "data_stall_share": 0.01,
        "time": NOW - 3,
        **changes,
    }
    (workdir / heartbeat.FOLDER).mkdir(exist_ok=True)
    (workdir / heartbeat.FOLDER / f"{process}.json").write_text(json.dumps(facts))


def test_a_run_that_goes_well(workdir):
    beat(workdir, 0)
    beat(workdir, 1)
    lines = [
        {"step": 100, "validation/auc": 0.7, "validation/loss": 1.0},
        {"step": 200, "validation/auc": 0.6, "validation/loss": 1.0},
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"step": 250, "lo'
    (workdir / "metrics.jsonl").write_text(text)
    text, well = status.report(workdir, now=NOW)
    assert well
    assert "step 250 of 1,000 (25%), training" in text
    assert "9 images/s, 1.0% of the time waiting for images" in text
    assert "no checkpoint yet" in text
    assert "best validation AUC: 0.7000 at step 100" in text
    assert "estimated end: in 0:25:00" in text
    assert "could not be read" not in text
    beat(workdir, 1, replaced_records=3)
    assert "3 records could not be read" in status.report(workdir, now=NOW)[0]
    assert "process 1 on n1, pid 11: step 250, 1.0% waiting for images, heard 0:00:03 ago" in text


@pytest.mark.parametrize(
    ("changes", "words", "well"),
    [
        ({"time": NOW - 60}, "heard 0:01:00 ago: SILENT", False),
        ({"data_stall_share": 0.4}, "SLOW: the others wait for its images", True),
        ({"state": "failed"}, ": failed", False),
    ],
)
def test_a_process_that_is_silent_slow_or_ended(workdir, changes, words, well):
    beat(workdir, 0)
    beat(workdir, 1, **changes)
    text, found = status.report(workdir, now=NOW)
    assert words in text.splitlines()[-1]
    assert found is well


def test_a_process_that_never_came_a_finished_run_and_one_that_did_not_start(workdir):
    assert status.report(workdir, now=NOW) == (
        f"{workdir}: no process has started to train yet",
        False,
    )
    beat(workdir, 0)
    assert status.report(workdir, now=NOW)[0].endswith("process 1: never heard")
    beat(workdir, 0, processes=1, state="finished", step=1000)
    assert status.report(workdir, now=NOW)[1]
    beat(workdir, 0, processes=1, state="interrupted", step=900)
    assert not status.report(workdir, now=NOW)[1]


@pytest.mark.parametrize(
    "content", [None, "", "{", '{"process": 0}', '{"process": 0, "step": "many"}', "[1]"]
)
def test_the_file_of_process_0_is_missing_or_damaged(workdir, content):
    beat(workdir, 1)
    file = workdir / heartbeat.FOLDER / "0.json"
    if content is not None:
        file.write_text(content)
    text, well = status.report(workdir, now=NOW)
    assert not well
    assert "step 250 of 1,000 (25%), training\n  as process 1 reports: process 0 reports n" in text
    assert text.endswith("process 0: never heard" if content is None else f"{file} is damaged")
    assert "process 1 on n1, pid 11: step 250" in text
    (workdir / heartbeat.FOLDER / "1.json").unlink()
    said = "no process has started" if content is None else "can be read"
    assert said in status.report(workdir, now=NOW)[0]


def test_a_heartbeat_tells_of_its_process_and_of_the_end(workdir, monkeypatch):
    monkeypatch.setattr(heartbeat, "INTERVAL_S", 0.01)
    beat(workdir, 1)

    def train():
        with heartbeat.Heartbeat(workdir, total_steps=3) as alive:
            alive.beat(1)
            alive.beat(2, images_per_s=5.0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train()
    (last,) = heartbeat.read(workdir)  # of one process: what was left of another is gone
    assert (last.step, last.images_per_s, last.state) == (2, 5.0, "failed")
    assert last.seconds_per_step > 0
