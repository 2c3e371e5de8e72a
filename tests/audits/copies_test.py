"""Copies of one source in another: found before a training, and left out of it."""

import json
import logging

import cv2
import numpy as np
import pytest
from source_trees import table

from configs import default
from jaxcovid import audit, prepare
from jaxcovid.audits import copies
from jaxcovid.audits.copies import leave_out_copies
from jaxcovid.data.opening import open_dataset
from jaxcovid.training.experiment import make_experiment

NAME = "folder/a+folder/b"
COPIES = {  # image of `a` -> row of `b`; the last one is saved anew, smaller
    "train-COVID-19-0.png": "normal,copied1,train",
    "train-COVID-19-2.png": "COVID-19,copied2,test",
    "train-normal-4.png": "normal,copied3,validation",
}


@pytest.fixture
def sources(tmp_path):
    """`b` has a training image of `a` under another label, and two that it holds out."""
    data, a, b = tmp_path / "data", tmp_path / "a", tmp_path / "b"
    prepare.build("folder/a", data, csv=str(table(a, seed=1)))
    path = table(b, seed=2)
    for number, (name, row) in enumerate(COPIES.items()):
        target = b / f"copy{number}.png"
        target.write_bytes((a / name).read_bytes())
        if "validation" in row:
            small = cv2.resize(cv2.imread(str(target)), (63, 63), interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(target), small)
        path.write_text(path.read_text() + f"{target.name},{row}\n")
    prepare.build("folder/b", data, csv=str(path))
    return data


def ids(dataset, split="train"):
    return [record["id"] for record in dataset.source(split)]


@pytest.mark.parametrize(
    ("search", "left_out"),
    [
        ("near", ["COVID-19-2", "COVID-19-3", "normal-4", "normal-5"]),
        ("exact", ["COVID-19-2", "COVID-19-3"]),
    ],
)
def test_copies_of_what_is_held_out_are_not_trained_on(search, left_out, sources, caplog):
    whole = open_dataset(NAME, sources)
    with caplog.at_level(logging.WARNING):
        dataset = leave_out_copies(whole, search=search)
    gone = [f"folder/a:train-{name}.png" for name in left_out]  # with the patient's other image
    assert sorted(dataset.left_out.values()) == gone
    assert ids(dataset) == [name for name in ids(whole) if name not in gone]
    assert ids(dataset, "test") == ids(whole, "test")
    assert dataset.split_sizes == {**whole.split_sizes, "train": len(ids(dataset))}
    labels = [dataset.class_names[record["label"]] for record in dataset.source("train")]
    assert dataset.class_counts["train"] == {name: labels.count(name) for name in set(labels)}
    kept = np.isin(whole.identities()["train"].ids, dataset.identities()["train"].ids)
    assert kept.tolist() == [name not in gone for name in ids(whole)]
    two_labels, out = caplog.messages
    assert "1 pictures are trained on with two labels: folder/a:train-COVID-19-0.png" in two_labels
    assert f"{len(gone)} images are left out" in out
    assert "folder/a:train-COVID-19-2.png (COVID-19) is test folder/b:copy1.png" in out


def test_the_search_is_made_once_and_the_run_says_what_is_left_out(sources, monkeypatch, tmp_path):
    dataset = leave_out_copies(open_dataset(NAME, sources), search="near")
    monkeypatch.setattr(copies, "read_items", None)
    again = leave_out_copies(open_dataset(NAME, sources), search="near")
    assert again.left_out == dataset.left_out
    path = dataset.directory / "copies-near.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "digest": "of other data"}))
    with pytest.raises(TypeError):
        leave_out_copies(open_dataset(NAME, sources), search="near")

    config = default.get_config("debug")
    config.dataset = NAME
    experiment = make_experiment(config, dataset, tmp_path / "w")
    assert experiment.run.dataset.left_out == tuple(dataset.left_out.values())
    assert len(experiment.training.source) == dataset.split_sizes["train"] == 21
    cached = dataset.with_cached_images({"train": experiment.training.source}, cache="memory")
    assert [r["id"] for r in cached["train"]] == ids(dataset)


def test_one_source_and_sources_without_copies_stay_as_they_are(sources):
    one = open_dataset("folder/a", sources)
    assert leave_out_copies(one, search="near") is one
    with pytest.raises(ValueError, match="'far'; use one of near, exact"):
        leave_out_copies(one, search="far")


def test_the_audit_finds_them_too(sources):
    content = audit.run(NAME, data_dir=str(sources))
    (found,) = (check for check in content["checks"] if check["name"] == "no picture in two splits")
    assert found["verdict"] == "failed"
    pairs = {(row["first"], row["second"]) for row in found["rows"]}
    first = "train: folder/a:train-COVID-19-2.png (COVID-19)"
    assert (first, "test: folder/b:copy1.png (COVID-19)") in pairs
    assert (open_dataset(NAME, sources).directory / "audit.json").exists()
    facts = next(check for check in content["checks"] if "facts beside" in check["name"])
    assert "source" in {row["facts"] for row in facts["rows"]}
