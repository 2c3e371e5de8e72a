import base64
import csv
import dataclasses
import errno
import html.parser
import json
import re

import cv2
import numpy as np
import pytest

from jaxcovid.evaluation import result as results
from jaxcovid.evaluation.published import published_scores
from jaxcovid.evaluation.segmentation import agreement
from jaxcovid.evaluation.segmentation_result import (
    OutlinedSlice,
    PatientInvolvement,
    Segmentation,
)
from jaxcovid.inference.overlay import overlay
from jaxcovid.metrics.calibration import Calibration, CalibrationErrors, ReliabilityBin
from jaxcovid.metrics.findings import evaluate_findings
from jaxcovid.metrics.interval import Score
from jaxcovid.metrics.involvement import involvement, measure_slice, stack
from jaxcovid.metrics.predictions import Predictions
from jaxcovid.metrics.scores import RATIOS, auc
from jaxcovid.metrics.screening import evaluate_involvement, evaluate_screening
from jaxcovid.metrics.segmentation import MaskComparison
from jaxcovid.metrics.subgroups import Subgroup
from jaxcovid.report import gallery, report, summary
from jaxcovid.runtime import files

THRESHOLDS = {"youden": 0.455, "sensitivity_90": 0.3, "sensitivity_95": 0.2}
OUTPUTS = ("COVID-19", "other pneumonia", "normal")
RUN = results.RunSummary(
    dataset="phantom",
    digest="0123abcd",
    citation="",
    trained_on="phantom",
    step=40,
    version="0.1.0",
    config={
        "model": {"head": "flatten"},
        "volume": {"slices": 0},
        "learning_rate": 1e-5,
        "loss": float("nan"),
    },
    commands=["python -m jaxcovid.evaluate --workdir=runs/a --split=test"],
)
IMAGE = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
EXPLANATION = results.Explanation(IMAGE, np.eye(8), "one")


def random_predictions(n=60, outputs=OUTPUTS[:1], only=None):
    rng = np.random.default_rng(0)
    kind = rng.integers(len(OUTPUTS), size=n) if only is None else np.full(n, only)
    targets = (kind[:, None] == np.arange(3))[:, : len(outputs)]
    return Predictions(
        ids=[f"CT/<b>{index}%0.png, a" for index in range(n)],
        patients=[f"p{index // 2}" for index in range(n)],
        targets=targets,
        probabilities=rng.beta(1 + targets, 2 - targets).astype(np.float32),
        outputs=outputs,
    )


def write(directory, predictions=None, **sections):
    """Writes a report and returns the content of its metrics.json."""
    result = results_of(predictions or random_predictions(), **sections)
    report.write_report(directory, result)
    return result.to_json()


def results_of(predictions, **sections):
    """The result of an evaluation, of a network that screens unless the sections say otherwise."""
    scores = evaluate_screening(predictions, thresholds=THRESHOLDS, resamples=50)
    arguments = {"split": "test", "scores": scores, "run": RUN, "predictions": predictions}
    return results.EvaluationResult(**(arguments | sections))


class Page(html.parser.HTMLParser):
    """Collects tags, text and what a browser would load."""

    def __init__(self):
        super().__init__()
        self.loads, self.text, self.open = [], "", []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.loads += [attributes[key] for key in ("src", "srcset", "data") if key in attributes]
        if tag == "link":
            self.loads.append(attributes["href"])
        assert tag not in ("script", "iframe")
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def parse(directory):
    source = (directory / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(source)
    assert not page.open
    return source, page


def strict(path):
    def refuse(name):
        raise AssertionError(f"{name} in JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_the_folder_holds_numbers_and_page(tmp_path):
    predictions = random_predictions()
    found = write(tmp_path / "evaluation" / "test", predictions, gallery=[EXPLANATION])
    folder = tmp_path / "evaluation" / "test"
    names = ["heatmaps.png", "metrics.json", "model_card.md", "pr.png", "predictions.csv"]
    names += ["report.html", "roc.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert strict(folder / "metrics.json") == found
    assert found["split"] == "test"
    assert found["auc"]["value"] == auc(predictions.positive, predictions.probability)
    assert found["run"]["step"] == 40
    assert found["run"]["config"]["loss"] is None
    assert found["undefined"] == {}

    source, page = parse(folder)
    assert len(page.loads) == 3
    assert all(load.startswith("data:image/png;base64,") for load in page.loads)
    assert not re.search(r"url\(|@import", source)
    embedded = [base64.b64decode(load.partition(",")[2]) for load in page.loads]
    shown = ("roc.png", "pr.png", "heatmaps.png")
    assert embedded == [(folder / name).read_bytes() for name in shown]
    assert "Research use only" in page.text
    for unit in (found, found["per_patient"]):
        for score in (unit["auc"], *(p["f"] for p in unit["operating_points"].values())):
            assert f"{score['value']:.3f}" in page.text
            assert f"{score['low']:.3f}–{score['high']:.3f}" in page.text  # noqa: RUF001
    for text in ("phantom", "0123abcd", "model.head", "flatten", RUN.commands[0], "40"):
        assert text in page.text


SCORE = Score(0.615, 0.513, 0.707, 0)
UNDEFINED = Score(float("nan"), float("nan"), float("nan"), 50)
SECTIONS = {
    "audit": results.AuditSummary(
        "failed", [results.AuditedCheck("no copies", "failed", "2 suspected pairs")]
    ),
    "calibration": Calibration(
        1.25,
        CalibrationErrors(0.711, 0.222, 0.133),
        CalibrationErrors(0.611, 0.212, 0.103),
        [ReliabilityBin(4, 0.2, 0.25)] * 3,
    ),
    "subgroups": [
        Subgroup("view", "PA", 77, 33, SCORE, SCORE, SCORE),
        Subgroup("sex", "F", 9, 3, None, None, None),
        Subgroup("source", "folder/a", 40, 20, SCORE, SCORE, SCORE),
        Subgroup("source", "folder/b", 37, 13, SCORE, SCORE, SCORE),
    ],
    "saliency": results.Saliency(
        n=21,
        masks="lungs",
        area=0.31,
        explanations={
            "Grad-CAM": results.ExplanationScores(
                mass=Score(0.472, 0.441, 0.503, 0),
                pointing=Score(0.571, 0.372, 0.751, 0),
                deletion=Score(0.387, 0.301, 0.481, 0),
                gain=Score(0.128, 0.057, 0.199, 0),
                empty=2,
            ),
            "Grad-CAM, weights shuffled": results.ExplanationScores(
                mass=UNDEFINED, pointing=UNDEFINED, empty=105
            ),
        },
        n_deleted=9,
        random_deletion=Score(0.515, 0.431, 0.598, 0),
    ),
    "ablations": [results.AblationScore("border_only", 60, SCORE, SCORE)],
    "against": results.Comparison(
        "plain", 0.555, Score(0.1, 0.05, 0.15), "runs/plain", random_predictions()
    ),
    "ensemble": results.Ensemble(["a", "b"], [0.81, 0.79], 0.8, 0.0141, [random_predictions()] * 2),
    "published": published_scores(trained_on="covid_ct", tested_on="covid_ct"),
}


def test_every_section_is_on_the_page(tmp_path):
    found = write(tmp_path, **SECTIONS)
    _, page = parse(tmp_path)
    for text in (
        "The audit of the data: failed.",
        "✗ no copies: 2 suspected pairs",
        "Logits are divided by 1.250",
        "0.103",
        "The data are of 2 sources.",
        "source: folder/a",
        "view: PA",
        "too few",
        "Over 21 images with a mask, 47 % of the heatmap lies inside the lungs, which "
        "are 31 % of the area; with its weights shuffled, no heatmap is left",
        "0.571 0.372–0.751",  # noqa: RUF001
        "0.387",
        "0.128 0.057–0.199",  # noqa: RUF001
        "0.515 0.431–0.598",  # noqa: RUF001
        "not measured",
        "9 images of COVID-19",
        "border only",
        "Against plain",
        "0.800, 0.014",
        "Table V, COVID-CT",
        "xDNN",
    ):
        assert text in page.text, text
    shuffled = "heatmaps/explanations/Grad-CAM, weights shuffled"
    assert found["undefined"][f"{shuffled}/mass/value"] == "all heatmaps are empty"
    assert "deletion" not in found["heatmaps"]["explanations"]["Grad-CAM, weights shuffled"]
    assert found["heatmaps"]["explanations"]["Grad-CAM"]["pointing"]["value"] == 0.571
    assert (tmp_path / "calibration.png").exists()
    card = (tmp_path / "model_card.md").read_text()
    assert "| AUC, ablation border only | 0.615 (0.513 to 0.707) |" in card
    write(tmp_path)
    assert not (tmp_path / "calibration.png").exists(), "of an earlier report"


def test_a_network_for_findings_has_a_page_of_its_own(tmp_path):
    rng = np.random.default_rng(0)
    known = rng.random((40, 2)) < 0.9
    predictions = Predictions(
        ids=[str(i) for i in range(40)],
        patients=[str(i) for i in range(40)],
        targets=(rng.random((40, 2)) < 0.5) & known,
        probabilities=rng.random((40, 2)),
        outputs=("Edema", "Pleural Effusion"),
        known=known,
    )
    found = write(tmp_path, predictions, scores=evaluate_findings(predictions, resamples=50))
    _, page = parse(tmp_path)
    for name, score in found["auc_per_output"].items():
        assert name in page.text
        assert f"{score['value']:.3f}" in page.text
    assert "Youden" not in page.text.split("Sources")[0]
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label_Pleural_Effusion"] != "" for row in rows] == known[:, 1].tolist()


def test_the_papers_tables_stand_beside_the_right_data_sets():
    get = published_scores
    assert get(trained_on="ct_cov19/grouped", tested_on="covid_ct").title.startswith("Table IV")
    table = get(trained_on="covid_chestxray/paper", tested_on="covid_chestxray/paper")
    assert table.rows[-1] == results.PublishedScores(
        "Deep-CXR-Net", precision=0.987, recall=0.982, f=0.984, auc=0.983, accuracy=0.983
    )
    assert get(trained_on="phantom", tested_on="covid_ct") is None
    assert get(trained_on="phantom", tested_on="phantom") is None
    several = "covid_ct/gray320+sars_cov_2_ct"
    assert get(trained_on=several, tested_on=several) is None
    assert get(trained_on=several, tested_on="covid_ct") is None


def test_predictions_read_back_give_the_same_numbers(tmp_path):
    predictions = random_predictions()
    found = write(tmp_path, predictions)
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "patient", "label", "probability"]
    assert [row["id"] for row in rows] == predictions.ids
    assert [row["patient"] for row in rows] == predictions.patients
    label = np.array([row["label"] == "1" for row in rows])
    probability = np.array([row["probability"] for row in rows]).astype(np.float32)
    np.testing.assert_array_equal(probability, predictions.probabilities[:, 0])
    assert auc(label, probability) == found["auc"]["value"]


def test_three_outputs(tmp_path):
    predictions = random_predictions(outputs=OUTPUTS)
    found = write(tmp_path, predictions)
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    extra = [f"probability_{name}" for name in ("COVID-19", "other_pneumonia", "normal")]
    assert list(rows[0]) == ["id", "patient", "label", "probability", *extra, "class"]
    assert {row["class"] for row in rows} == set(OUTPUTS)
    _, page = parse(tmp_path)
    for score in (*found["auc_per_output"].values(), found["auc_macro"]):
        assert f"{score['value']:.3f}" in page.text


@pytest.mark.parametrize(("n", "only"), [(10, 0), (10, 1), (1, 0)])
def test_one_class_alone_is_undefined_not_a_crash(tmp_path, n, only):
    found = write(tmp_path, random_predictions(n=n, only=only))
    assert strict(tmp_path / "metrics.json") == found
    assert found["auc"]["value"] is None
    assert found["undefined"]["auc/value"] == "one class is absent"
    lost = "specificity" if only == 0 else "recall"
    assert f"operating_points/0.5/{lost}/value" in found["undefined"]
    source, page = parse(tmp_path)
    assert "undefined" in page.text
    assert "nan" not in source.partition("<body>")[2].replace(page.loads[0], "").lower()


def test_names_are_escaped(tmp_path):
    run = dataclasses.replace(RUN, citation="<script>alert(1)</script>")
    write(tmp_path, run=run, split="te<i>st")
    source, page = parse(tmp_path)
    assert "<script>" not in source
    assert "<script>alert(1)</script>" in page.text


def test_an_earlier_report_leaves_nothing_behind(tmp_path):
    write(tmp_path, gallery=[EXPLANATION])
    write(tmp_path)
    assert not (tmp_path / "heatmaps.png").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    files.write_atomically(path, b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*5 bytes.*metrics\.json") as caught:
        files.write_atomically(path, b"12345")
    assert caught.value.errno == errno.ENOSPC
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write the report's folder"):
        write(tmp_path / "file" / "test")


def test_a_run_without_json_form_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"\{1\} is a set"):
        write(tmp_path, run=dataclasses.replace(RUN, config={**RUN.config, "loss": {1}}))


def test_overlay_leaves_the_image_where_the_map_is_zero():
    heatmap = np.zeros((8, 8))
    heatmap[:4, :4] = 1
    found = overlay(IMAGE, heatmap)
    assert found.shape == (48, 64, 3)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[36:, 48:], np.repeat(IMAGE[36:, 48:, None], 3, axis=2))
    red, _, blue = found[:12, :16].reshape(-1, 3).mean(axis=0)
    assert red > blue + 20  # the top of the map is yellow in RGB, blue were it BGR


@pytest.mark.parametrize(
    ("image", "heatmap", "message"),
    [
        (IMAGE.astype(float), np.zeros((8, 8)), "uint8"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((8, 8)), "uint8"),
        (IMAGE, np.full((8, 8), 1.5), r"not in \[0, 1\]"),
        (IMAGE, np.full((8, 8), np.nan), r"not in \[0, 1\]"),
        (IMAGE, np.zeros((8, 8, 1)), "heatmap has shape"),
    ],
)
def test_overlay_refuses_what_it_cannot_draw(image, heatmap, message):
    with pytest.raises(ValueError, match=message):
        overlay(image, heatmap)


def test_gallery_refuses_what_overlay_refuses():
    with pytest.raises(ValueError, match="uint8"):
        gallery.heatmap_gallery([results.Explanation(IMAGE / 255, np.eye(8), "a")])


def test_gallery_draws_any_sizes_and_outlines_masks():
    mask = np.zeros((500, 300), bool)
    mask[100:300, 100:200] = True
    content = gallery.heatmap_gallery(
        [
            results.Explanation(IMAGE, np.zeros((8, 8)), "a"),
            results.Explanation(IMAGE.T.copy(), np.eye(8), "b" * 300),
            results.Explanation(np.full((500, 300), 128, np.uint8), np.zeros((4, 6)), "c\nd", mask),
        ]
    )
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    blue, _, red = picture.astype(int).transpose(2, 0, 1)
    assert (blue - red > 80).any()
    black = results.Explanation(IMAGE, np.zeros((8, 8)), "a")
    marked = dataclasses.replace(black, lesion=np.eye(8))
    alone, beside = (
        cv2.imdecode(np.frombuffer(gallery.heatmap_gallery([each]), np.uint8), cv2.IMREAD_COLOR)
        for each in (black, marked)
    )
    assert beside.shape[1] > 1.4 * alone.shape[1]  # three tiles in place of two
    with pytest.raises(ValueError, match="at least one"):
        gallery.heatmap_gallery([])
    with pytest.raises(ValueError, match="mask is"):
        gallery.heatmap_gallery([results.Explanation(IMAGE, np.eye(8), "a", mask)])


def test_the_same_data_give_the_same_files(tmp_path):
    for name in ("first", "second"):
        write(tmp_path / name, gallery=[EXPLANATION], **SECTIONS)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name


def test_the_log_has_the_scores_and_a_new_ratio_follows(tmp_path, monkeypatch):
    """A new score is a function and a line in `RATIOS`."""
    sensitivity = RATIOS["recall"].parts
    monkeypatch.setitem(RATIOS, "copy", dataclasses.replace(RATIOS["recall"], label="A copy"))
    predictions = random_predictions()
    found = write(tmp_path, predictions, **SECTIONS)
    point = found["operating_points"]["youden"]
    assert RATIOS["copy"].parts is sensitivity
    assert point["copy"] == point["recall"]
    _, page = parse(tmp_path)
    assert "A copy" in page.text
    scores = evaluate_screening(predictions, thresholds=THRESHOLDS, resamples=50)
    result = results.EvaluationResult(
        split="test", scores=scores, run=RUN, predictions=predictions, **SECTIONS
    )
    lines = summary.summarize(result).splitlines()
    assert lines[0] == "AUCs of 2 runs: 0.810, 0.790; mean 0.800, deviation 0.014"
    assert lines[1] == "test on phantom, 60 images of 30 patients, checkpoint 40:"
    assert lines[-2] == "  AUC, border_only 0.615  (95 % interval 0.513 to 0.707)"
    assert lines[-1] == "  AUC beyond plain 0.100  (95 % interval 0.050 to 0.150)"
    assert any(line.startswith("  copy  ") for line in lines)
    assert summary.summarize_shuffles([0.4, 0.5, 0.6]).endswith(
        "mean 0.500 (95 % interval 0.252 to 0.748)"
    )


def made_segmentation(**changes):
    """A section as an evaluation makes it, of three volumes; the masks of one are empty."""
    lungs, lesion = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    lungs[8:56, 4:28] = lungs[8:56, 36:60] = lesion[30:50, 8:20] = True
    patients = []
    comparisons = {name: MaskComparison() for name in ("lungs", "lesion")}
    for index, share in enumerate((1, 0.5, 0)):
        case = f"<case>{index}"
        true_lesion = lesion & (np.arange(64) < 8 + 12 * share)
        predicted = np.roll(true_lesion, 1, axis=0)
        comparisons["lungs"].add(case, lungs, np.roll(lungs, index, axis=1))
        comparisons["lesion"].add(case, true_lesion, predicted)
        areas = [[measure_slice(lungs, mask)] for mask in (predicted, true_lesion)]
        involved = [involvement(stack(slices)) for slices in areas]
        patients.append(PatientInvolvement(case, 1, *involved))
    arguments = {
        "scores": {name: each.scores(resamples=50) for name, each in comparisons.items()},
        "patients": patients,
        "overlays": [OutlinedSlice(np.full((64, 64), 90, np.uint8), np.dstack([lungs] * 2), "a")],
    }
    arguments |= changes
    return Segmentation(**arguments, **agreement(arguments["patients"]))


def test_masks_have_a_section(tmp_path):
    segmentation = made_segmentation()
    found = write(tmp_path, segmentation=segmentation)
    _, page = parse(tmp_path)
    assert (tmp_path / "contours.png").exists()
    assert len(page.loads) == 3
    lesion = segmentation.scores["lesion"]
    for score in (lesion.dice, lesion.hausdorff, lesion.volume_error, lesion.lesion_sensitivity):
        assert f"{score.value:.3f}" in page.text
    for text in (
        "3 slices of 3 volumes",
        "2 lesions of 10 px or more, each detected if 50 % of it is covered",
        "Not in Dice: 1 volumes where both masks are empty",
        "as predicted12000",
        "by the true masks12000",
        "<case>2",
        f"{100 * segmentation.patients[0].predicted.share:.1f} %",
    ):
        assert text in page.text.replace("\n", ""), text
    assert found["segmentation"]["scores"]["lesion"]["dice"]["value"] == lesion.dice.value
    assert found["segmentation"]["patients"][0]["truth"]["grade"] == "CT-1"
    error, right = (getattr(segmentation, key) for key in ("involvement_error", "grade_agreement"))
    assert found["segmentation"]["involvement_error"]["value"] == error.value
    assert f"the share is wrong by {error.value:.3f} on average" in page.text
    assert right.value == 1
    assert right.low == pytest.approx(0.025 ** (1 / 3)), "over three patients"
    assert "segmentation/scores/lesion/volumes/<case>2/dice" in found["undefined"]
    assert (
        f"| Dice over volumes, lesion | {lesion.dice.value:.3f}"
        in (tmp_path / "model_card.md").read_text()
    )

    write(tmp_path)
    assert not (tmp_path / "contours.png").exists(), "of an earlier report"


def test_masks_without_truth_have_involvement_alone(tmp_path):
    patients = [dataclasses.replace(each, truth=None) for each in made_segmentation().patients * 40]
    write(tmp_path, segmentation=made_segmentation(scores={}, patients=patients, overlays=()))
    _, page = parse(tmp_path)
    assert "120 patients, the first 100 of them; metrics.json has all" in page.text
    assert "true masks" not in page.text
    assert "Dice" not in page.text
    assert page.text.count("<case>") == 100


def involvement_scores(predictions):
    return evaluate_involvement(predictions, thresholds={"involved": 0.01}, resamples=50)


def test_a_network_that_only_segments_begins_with_its_masks(tmp_path):
    predictions = random_predictions()
    sections = {"scores": involvement_scores(predictions), "segmentation": made_segmentation()}
    found = write(tmp_path, predictions, **sections)
    source, page = parse(tmp_path)
    headings = re.findall("<h2>(.*?)</h2>", source)
    assert headings[:3] == [
        "Segmentation of lungs and lesion",
        "Can these scores be believed?",
        "Screening by the share involved, per image",
    ]
    assert headings.count("Segmentation of lungs and lesion") == 1
    assert "Lungs and lesion on phantom" in page.text
    assert "Do probabilities mean what they say?" not in page.text
    assert "Threshold 0.5" not in page.text
    assert {"auc", "operating_points"}.isdisjoint(found)
    assert list(found["screening"]["operating_points"]) == ["involved"]
    assert found["screening"]["auc"]["value"] == auc(predictions.positive, predictions.probability)
    lines = summary.summarize(results_of(predictions, **sections)).splitlines()
    assert [line[2:14] for line in lines[1:3]] == ["Dice, lungs ", "Dice, lesion"]
    assert lines[5].startswith("  AUC of the share of the lungs involved 0.")
    assert "| AUC of the share of the lungs involved |" in (tmp_path / "model_card.md").read_text()


def test_images_of_one_class_leave_masks_alone(tmp_path):
    predictions = random_predictions(only=0)
    write(tmp_path)
    sections = {"scores": involvement_scores(predictions), "segmentation": made_segmentation()}
    found = write(tmp_path, predictions, **sections)
    _, page = parse(tmp_path)
    for absent in ("AUC", "ROC curve:", "Operating point", "Threshold", "Undefined here"):
        assert absent not in page.text, absent
    assert "All images are of one class" in page.text
    assert not {"screening", "auc", "calibration"} & found.keys()
    assert (found["n"], found["n_patients"]) == (60, 30)
    names = ["contours.png", "metrics.json", "model_card.md", "predictions.csv", "report.html"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    lines = summary.summarize(results_of(predictions, **sections)).splitlines()
    assert len(lines) == 1 + 4, lines
    assert "AUC" not in (tmp_path / "model_card.md").read_text()
    with (tmp_path / "predictions.csv").open() as file:
        assert file.readline() == "id,patient,label,probability\n"
