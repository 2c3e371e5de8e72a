"""From a scored split to a result, and what is refused before anything is computed."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from jaxcovid.data.identity import Overlap
from jaxcovid.data.labels import Task
from jaxcovid.evaluation.evaluation import check_request, evaluate
from jaxcovid.evaluation.scored import ScoredSplit
from jaxcovid.metrics.predictions import Predictions

N = 60


def network(task, *, ablation="none", dataset="covid_ct", classifies=True):
    return SimpleNamespace(
        task=task,
        workdir="runs/a",
        step=40,
        temperature=1.5,
        thresholds={"youden": 0.5},
        has_gradcam=False,
        segments=False,
        classifies=classifies,
        run=SimpleNamespace(
            dataset=SimpleNamespace(name=dataset),
            ablation=ablation,
            config={"seed": 0},
            volume_slices=0,
            command=None,
        ),
    )


def scored(task, directory, **options):
    rng = np.random.default_rng(0)
    targets = rng.random((N, len(task.outputs))) < 0.5
    probabilities = rng.random(targets.shape)
    dataset = SimpleNamespace(
        name="covid_ct",
        digest="0123",
        citation="@article{}",
        class_names=("COVID-19", "normal") if task.screens else (),
        directory=directory,
    )
    predictions = Predictions(
        ids=[str(i) for i in range(N)],
        patients=[str(i // 2) for i in range(N)],
        targets=targets,
        probabilities=probabilities,
        outputs=task.outputs,
    )
    groups = [{"view": "PA" if i % 2 else "AP"} for i in range(N)]
    return ScoredSplit(
        predictor=network(task, **options),
        dataset=dataset,
        split="test",
        source=[{}] * N,
        predictions=predictions,
        uncalibrated=probabilities[:, 0],
        groups=groups,
        seen=Overlap(0, 0, 0, N),
    )


def test_a_network_that_screens(tmp_path):
    audit = {"verdict": "passed", "checks": [{"name": "a", "verdict": "passed", "summary": "b"}]}
    (tmp_path / "audit.json").write_text(json.dumps({**audit, "digest": "0123"}))
    result = evaluate(scored(Task("binary", ("COVID-19",)), tmp_path), "the command")
    assert result.calibration.temperature == 1.5
    assert [row.value for row in result.subgroups] == ["AP", "PA"]
    assert result.audit.checks[0].summary == "b"
    assert result.published.title == "Table V, COVID-CT"
    for absent in (result.seen, result.saliency, result.ablations, result.against):
        assert absent is None
    content = result.to_json()
    assert content["run"]["classes"] == {"COVID-19": "COVID-19", "normal": "the rest"}
    assert content["run"]["trained on"] == "covid_ct"
    assert content["run"]["commands"] == [
        "python -m jaxcovid.prepare covid_ct --source=DIR",
        "python -m jaxcovid.audit covid_ct",
        "python -m jaxcovid.train --config=FILE --workdir=runs/a  # with the options below",
        "the command",
    ]
    assert {"n", "auc", "operating_points", "per_patient", "calibration"} < content.keys()
    assert not {"predictions", "gallery", "seen", "heatmaps", "runs"} & content.keys()


def test_a_network_that_only_segments_has_no_calibration(tmp_path, monkeypatch):
    split = scored(Task("binary", ("COVID-19",)), tmp_path, classifies=False)
    result = evaluate(split, "")
    assert result.only_segments
    assert result.calibration is None
    assert result.published is None
    assert [row.value for row in result.subgroups] == ["AP", "PA"]
    content = result.to_json()
    assert content["screening"]["n_positive"] == split.predictions.positive.sum()
    predictions = dataclasses.replace(split.predictions, targets=np.ones((N, 1), bool))
    one_class = evaluate(dataclasses.replace(split, predictions=predictions), "")
    assert one_class.subgroups is None
    assert one_class.auc is None
    assert {"n": N, "n_patients": N // 2}.items() <= one_class.to_json().items()


def test_an_audit_of_other_data_does_not_count(tmp_path):
    (tmp_path / "audit.json").write_text(json.dumps({"digest": "4567"}))
    task = Task("binary", ("COVID-19",))
    assert evaluate(scored(task, tmp_path, ablation="thumbnail"), "").audit is None
    assert evaluate(scored(task, tmp_path, ablation="thumbnail"), "").published is None


def test_what_was_seen_is_in_the_result(tmp_path):
    split = scored(Task("binary", ("COVID-19",)), tmp_path)
    split = dataclasses.replace(split, seen=Overlap(3, 1, 4, N))
    content = evaluate(split, "").to_json()
    assert content["seen"] == {"images": 3, "patients": 1, "images_of_patients": 4, "total": N}


def test_a_network_for_findings(tmp_path):
    result = evaluate(scored(Task("multilabel", ("Edema", "Mass")), tmp_path), "")
    assert result.screening is None
    assert list(result.per_image.auc_per_output) == ["Edema", "Mass"]
    content = result.to_json()
    assert content["counts"]["Edema"]["unknown"] == 0
    assert not {"calibration", "subgroups", "operating_points"} & content.keys()


def test_what_cannot_work_is_refused():
    screens, films = Task("binary", ("COVID-19",)), Task("multilabel", ("Edema",))
    one = network(screens)
    check_request([one, network(screens)], ablations=True, against=one)
    for networks, options, message in (
        ([network(films)], {"ablations": True, "against": None}, "has no ablations"),
        ([network(films)], {"ablations": False, "against": one}, "compared with no other"),
        (
            [network(screens, ablation="thumbnail")],
            {"ablations": True, "against": None},
            "runs/a was trained with ablation=thumbnail",
        ),
        (
            [one, network(screens, dataset="phantom")],
            {"ablations": False, "against": None},
            "not seeds of one",
        ),
        ([network(films)] * 2, {"ablations": False, "against": None}, "make no ensemble"),
    ):
        with pytest.raises(ValueError, match=message):
            check_request(networks, **options)
