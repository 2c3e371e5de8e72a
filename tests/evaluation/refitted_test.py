"""Another classifier on a network's features."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from jaxcovid.evaluation.refitted import Examples, check_classifier, fit
from jaxcovid.metrics.scores import auc


@pytest.mark.parametrize("classifier", ["logistic", "prototypes"])
def test_a_classifier_learns_what_features_say(classifier):
    rng = np.random.default_rng(0)

    def examples(n):
        positive = rng.random(n) < 0.4
        return Examples(rng.normal(1, 1, (n, 6)) + 2 * positive[:, None] * np.eye(6)[0], positive)

    score = fit(classifier, examples(200), examples(50))
    test = examples(300)
    assert auc(test.positive, score(test.features)) > 0.7
    assert 0 <= score(test.features).min() <= score(test.features).max() <= 1


def test_evaluate_classifier(command, trained, data_dir):
    where = f"--data_dir={data_dir}"
    command("evaluate", f"--workdir={trained}", where)
    for classifier in ("logistic", "prototypes"):
        command("evaluate", f"--workdir={trained}", f"--classifier={classifier}", where)
        folder = trained / "evaluation" / f"test-{classifier}"
        result = json.loads((folder / "metrics.json").read_text())
        assert result["classifier"] == classifier
        assert result["auc"]["value"] > 0.6
        report = (folder / "report.html").read_text()
        assert f"--classifier={classifier}" in report
        assert f"but another ({classifier}), fitted to its features" in report
        assert f"- classifier: {classifier}, fitted" in (folder / "model_card.md").read_text()
        assert not (folder / "heatmaps.png").exists()
        own = (trained / "evaluation" / "test" / "predictions.csv").read_text().splitlines()
        ours = (folder / "predictions.csv").read_text().splitlines()
        assert [line.split(",")[:3] for line in own] == [line.split(",")[:3] for line in ours]
        assert own != ours


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classifier=svm"], "there is no classifier 'svm'; use one of logistic, prototypes"),
        (["--classifier=logistic", "--ablations"], "are of one workdir, without --ablations"),
        (["--classifier=logistic", "--sources=a,b"], "goes without --dataset and --classifier"),
    ],
)
def test_what_cannot_be_refitted_is_refused(command, trained, data_dir, options, message):
    refused = command(
        "evaluate", f"--workdir={trained}", *options, f"--data_dir={data_dir}", check=False
    )
    assert refused.returncode
    assert message in refused.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": SimpleNamespace(name="a+b")}, "trained on one data set; w was trained on a"),
        ({"ablation": "border_only"}, "was trained with ablation=border_only"),
    ],
)
def test_runs_whose_images_are_not_all_theirs_are_refused(change, message):
    options = {"dataset": SimpleNamespace(name="a"), "ablation": "none", "config": {}}
    task = SimpleNamespace(screens=True, outputs=("COVID-19",))
    run = SimpleNamespace(**{**options, **change})
    network = SimpleNamespace(workdir="w", run=run, task=task, classifies=True)
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        check_classifier(network, "logistic")
