import dataclasses
import sys

import numpy as np
import pytest
import runs
import sklearn.metrics

from jaxcovid.metrics import scores
from jaxcovid.metrics.classes import average_classes, class_report
from jaxcovid.metrics.findings import evaluate_findings
from jaxcovid.metrics.predictions import Predictions, per_patient
from jaxcovid.metrics.screening import evaluate_screening
from jaxcovid.metrics.thresholds import choose_thresholds

THRESHOLDS = {"youden": 0.455, "sensitivity_90": 0.3, "sensitivity_95": 0.2}


def random_predictions(n=120, patients=50, outputs=("COVID-19",), seed=0, decimals=2):
    rng = np.random.default_rng(seed)
    kind = rng.integers(max(2, len(outputs)), size=patients)
    patient = rng.integers(patients, size=n)
    targets = np.stack([kind[patient] == column for column in range(len(outputs))], axis=1)
    probabilities = np.round(rng.beta(1 + targets, 2 - targets), decimals).astype(np.float32)
    return Predictions(
        ids=[f"image {index}" for index in range(n)],
        patients=[f"patient {index}" for index in patient],
        targets=targets,
        probabilities=probabilities,
        outputs=outputs,
    )


def ratio(name, positive, called):
    top, bottom = scores.RATIOS[name].parts(positive, called)
    return top.sum() / bottom.sum() if bottom.sum() else np.nan


def called_at(positive, probability, threshold):
    """Counts, recall and specificity at a threshold."""
    called = probability >= threshold
    rates = [ratio(name, positive, called) for name in ("recall", "specificity")]
    return scores.confusion(positive, called), *rates


@pytest.mark.parametrize("n", [2, 3, 10, 1000])
@pytest.mark.parametrize("decimals", [0, 1, 16])
def test_auc_is_that_of_scikit_learn(n, decimals):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        positive = rng.permutation(np.arange(n) < rng.integers(1, n))
        score = np.round(rng.random(n), decimals)
        expected = sklearn.metrics.roc_auc_score(positive, score)
        assert scores.auc(positive, score) == pytest.approx(expected, rel=1e-12)


def test_auc_without_one_class_is_nan():
    assert np.isnan(scores.auc(np.ones(3, bool), np.arange(3.0)))
    assert np.isnan(scores.auc(np.zeros(3, bool), np.arange(3.0)))
    assert np.isnan(scores.auc(np.ones(1, bool), np.ones(1)))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 7, 400])
def test_confusion_is_that_of_scikit_learn(n, threshold):
    rng = np.random.default_rng(n)
    positive, probability = rng.random(n) < 0.4, np.round(rng.random(n), 1)
    called = probability >= threshold
    counts = scores.confusion(positive, called)
    tn, fp, fn, tp = sklearn.metrics.confusion_matrix(positive, called, labels=[0, 1]).ravel()
    assert counts == scores.Confusion(tp=tp, fp=fp, tn=tn, fn=fn)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(positive, called),
        "precision": sklearn.metrics.precision_score(positive, called, zero_division=np.nan),
        "recall": sklearn.metrics.recall_score(positive, called, zero_division=np.nan),
        "f": sklearn.metrics.f1_score(positive, called, zero_division=np.nan),
        "specificity": sklearn.metrics.recall_score(~positive, ~called, zero_division=np.nan),
    }
    assert expected.keys() == scores.RATIOS.keys()
    for name, value in expected.items():
        found = ratio(name, positive, called)
        assert found == pytest.approx(value, rel=1e-12, nan_ok=True), name


def test_f_is_the_harmonic_mean():
    positive = np.array([1, 1, 1, 0, 0], bool)
    called = np.array([1, 1, 0, 1, 0], bool)
    p, r, f = (ratio(name, positive, called) for name in ("precision", "recall", "f"))
    assert f == pytest.approx(2 * p * r / (p + r))


def test_an_image_at_the_threshold_is_positive():
    predictions = Predictions(["a"], ["a"], np.array([[True]]), np.array([[0.5]]), ("COVID-19",))
    found = evaluate_screening(predictions, thresholds={"youden": 0.5}, resamples=2)
    assert found.per_image.operating_points["youden"].confusion.tp == 1


def test_thresholds_of_a_case_worked_by_hand():
    positive = np.array([0, 0, 0, 1, 0, 1, 1, 1, 1, 1], bool)
    probability = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    found = choose_thresholds(positive, probability)
    # J is 5/6 at .45 (misses .3) and 3/4 at .25; all six positives need .25.
    assert found == pytest.approx({"youden": 0.45, "sensitivity_90": 0.25, "sensitivity_95": 0.25})


def test_thresholds_against_a_search_over_all():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 60))
        positive = rng.permutation(np.arange(n) < rng.integers(1, n))
        probability = np.round(rng.random(n), 1 + seed % 3)
        found = choose_thresholds(positive, probability)
        every = [called_at(positive, probability, t) for t in np.linspace(0, 1, 2001)]
        chosen = {key: called_at(positive, probability, t) for key, t in found.items()}
        best = max(recall + specificity for _, recall, specificity in every)
        counts, recall, specificity = chosen["youden"]
        assert recall + specificity == pytest.approx(best)
        equal = [c for c, recall, specificity in every if recall + specificity > best - 1e-9]
        assert counts.tp == max(c.tp for c in equal)
        for key, level in (("sensitivity_90", 0.9), ("sensitivity_95", 0.95)):
            counts, recall, _ = chosen[key]
            assert recall >= level
            fewest = min(c.tp + c.fp for c, recall, _ in every if recall >= level)
            assert counts.tp + counts.fp == fewest


def test_thresholds_bear_rounding():
    predictions = random_predictions()
    positive, probability = predictions.targets[:, 0], predictions.probabilities[:, 0]
    for threshold in choose_thresholds(positive, probability).values():
        near = called_at(positive, probability + 0.004, threshold)
        far = called_at(positive, probability - 0.004, threshold)
        assert near == far


def test_thresholds_of_neighbouring_floats_and_of_constant_scores():
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1))
    found = choose_thresholds(np.array([False, True]), np.array([low, high]))
    called = np.array([low, high]).astype(float) >= found["youden"]
    assert called.tolist() == [False, True]
    constant = choose_thresholds(np.array([False, True]), np.array([0.4, 0.4]))
    assert set(constant.values()) == {0.2}


@pytest.mark.parametrize("positive", [[True, True], [False, False]])
def test_thresholds_need_both_classes(positive):
    with pytest.raises(ValueError, match="both classes"):
        choose_thresholds(np.array(positive), np.array([0.1, 0.2]))


def test_per_patient_is_the_mean_probability_and_any_target():
    predictions = Predictions(
        ids=["a", "b", "c"],
        patients=["2", "1", "2"],
        targets=np.array([[False], [False], [True]]),
        probabilities=np.array([[0.2], [0.5], [0.8]]),
        outputs=("COVID-19",),
    )
    found = per_patient(predictions)
    assert found.ids == found.patients == ["1", "2"]
    np.testing.assert_array_equal(found.targets, [[False], [True]])
    np.testing.assert_allclose(found.probabilities, [[0.5], [0.5]])


def test_per_patient_keeps_one_class_a_patient():
    predictions = Predictions(
        ids=list("abcd"),
        patients=["1", "1", "2", "2"],
        targets=np.array([[0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 1, 0]], bool),
        probabilities=np.full((4, 3), 0.5),
        outputs=("COVID-19", "other pneumonia", "normal"),
    )
    targets = per_patient(predictions).targets
    np.testing.assert_array_equal(targets, [[1, 0, 0], [0, 1, 0]])


def test_evaluate_gathers_the_scores():
    predictions = random_predictions()
    scores_of_all = evaluate_screening(predictions, thresholds=THRESHOLDS, resamples=100)
    found, patients = scores_of_all.per_image, scores_of_all.per_patient
    positive, probability = predictions.positive, predictions.probability
    called = probability >= 0.455
    assert found.n == 120
    assert found.n_patients == patients.n == len(set(predictions.patients))
    assert found.n_positive == positive.sum()
    assert found.positive_class == "COVID-19"
    assert found.auc.value == pytest.approx(
        sklearn.metrics.roc_auc_score(positive, probability), rel=1e-12
    )
    assert found.auc.low < found.auc.value < found.auc.high
    assert list(found.operating_points) == [*THRESHOLDS, "0.5"]
    point = found.operating_points["youden"]
    assert point.threshold == 0.455
    assert point.confusion.tp == (positive & called).sum()
    assert list(point.ratios) == list(scores.RATIOS)
    assert point.ratios["f"].value == pytest.approx(sklearn.metrics.f1_score(positive, called))
    for name, average in (("pooled", "micro"), ("macro", "macro"), ("weighted", "weighted")):
        expected = sklearn.metrics.precision_recall_fscore_support(
            positive, called, average=average
        )
        values = dataclasses.astuple(getattr(found.averages, name))
        assert values == pytest.approx(expected[:3], rel=1e-12)
    joined = per_patient(predictions)
    assert patients.auc.value == scores.auc(joined.positive, joined.probability)
    assert found.auc_macro is None


def test_evaluate_three_outputs():
    outputs = ("COVID-19", "other pneumonia", "normal")
    predictions = random_predictions(outputs=outputs)
    found = evaluate_screening(predictions, thresholds=THRESHOLDS, resamples=20).per_image
    expected = sklearn.metrics.roc_auc_score(
        predictions.targets, predictions.probabilities, average=None
    )
    values = [found.auc_per_output[name].value for name in outputs]
    assert values == pytest.approx(expected, rel=1e-12)
    assert found.auc_macro.value == pytest.approx(expected.mean(), rel=1e-12)
    assert found.auc == found.auc_per_output["COVID-19"]
    called = predictions.probabilities.argmax(1)
    assert found.classes == class_report(predictions.targets.argmax(1), called, outputs)


def test_evaluate_bears_one_image():
    predictions = random_predictions(n=1, patients=1)
    found = evaluate_screening(predictions, thresholds=THRESHOLDS, resamples=20).per_image
    assert np.isnan(found.auc.value)
    assert found.operating_points["0.5"].ratios["accuracy"].value in (0, 1)


def test_order_changes_nothing():
    predictions = random_predictions()
    shuffled = predictions.part(np.random.default_rng(1).permutation(120))
    first, second = (
        evaluate_screening(each, thresholds=THRESHOLDS, resamples=50)
        for each in (predictions, shuffled)
    )
    points = [each.per_image.operating_points["youden"] for each in (first, second)]
    assert points[0].confusion == points[1].confusion
    for unit in ("per_image", "per_patient"):
        aucs = [dataclasses.astuple(getattr(each, unit).auc) for each in (first, second)]
        assert aucs[0] == pytest.approx(aucs[1], rel=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ["a", "b", "a"]}, "'a' 2 times"),
        ({"patients": ["1"]}, "3 ids but 1 patients"),
        ({"targets": np.zeros((3, 2), bool)}, r"targets has shape \(3, 2\)"),
        ({"targets": np.zeros((3, 1))}, "give bool"),
        ({"probabilities": np.zeros(3)}, r"probabilities has shape \(3,\)"),
        ({"probabilities": np.zeros((3, 1), int)}, "give floats"),
        ({"probabilities": np.array([[0.1], [np.nan], [0.2]])}, "1 of 3 images"),
        ({"probabilities": np.array([[-2.5], [0.5], [3.0]])}, r"\[-2.5, 3\].*sigmoid"),
        ({"ids": [], "patients": []}, "need images"),
    ],
)
def test_bad_predictions_are_refused(change, message):
    good = {
        "ids": ["a", "b", "c"],
        "patients": ["1", "1", "2"],
        "targets": np.zeros((3, 1), bool),
        "probabilities": np.full((3, 1), 0.5),
        "outputs": ("COVID-19",),
    }
    Predictions(**good)
    with pytest.raises(ValueError, match=message):
        Predictions(**(good | change))


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [({"sensitivity_90": 0.5}, "lack 'youden'"), ({"youden": 1.5}, r"not in \[0, 1\]")],
)
def test_bad_thresholds_are_refused(thresholds, message):
    with pytest.raises(ValueError, match=message):
        evaluate_screening(random_predictions(), thresholds=thresholds)


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        scores.auc(np.array([True, False]), np.array([np.nan, 0.5]))
    with pytest.raises(ValueError, match="shapes"):
        scores.auc(np.array([True, False]), np.array([0.5]))
    with pytest.raises(ValueError, match="0 and 1"):
        scores.auc(np.array([2, 0]), np.array([0.1, 0.5]))


def test_metrics_know_nobody_and_start_fast():
    """Training imports them: what takes long to import is imported where it is used."""
    code = (
        "import pkgutil, sys, jaxcovid.metrics as package\n"
        "for module in pkgutil.iter_modules(package.__path__, 'jaxcovid.metrics.'):\n"
        "    __import__(module.name)\n"
        "slow = {'sklearn', 'scipy', 'matplotlib', 'jax', 'cv2'} & set(sys.modules)\n"
        "ours = {name for name in sys.modules if name.startswith('jaxcovid.')}\n"
        "print(slow | {name for name in ours if not name.startswith('jaxcovid.metrics')})\n"
    )
    found = runs.run([sys.executable, "-c", code])
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "set()"


def test_three_classes_equal_scikit_learns_report():
    from sklearn.metrics import classification_report, confusion_matrix

    rng = np.random.default_rng(0)
    names = ("COVID-19", "other pneumonia", "normal")
    truth = rng.integers(0, 3, 90)
    probabilities = rng.random((90, 3))
    probabilities[np.arange(45), truth[:45]] += 1
    called = probabilities.argmax(1)
    found = class_report(truth, called, names)
    expected = classification_report(truth, called, target_names=names, output_dict=True)
    for row, name in zip(confusion_matrix(truth, called), names, strict=True):
        assert list(found[name].called.values()) == row.tolist()
        for key, theirs in (("precision", "precision"), ("recall", "recall"), ("f", "f1-score")):
            assert getattr(found[name], key) == pytest.approx(expected[name][theirs])
    averages = average_classes(found)
    assert averages.macro.f == pytest.approx(expected["macro avg"]["f1-score"])
    assert averages.weighted.f == pytest.approx(expected["weighted avg"]["f1-score"])
    assert averages.pooled.recall == pytest.approx(expected["accuracy"])
    one = class_report(np.array([0]), np.array([0]), names)
    assert np.isnan(one["normal"].recall)
    assert one["COVID-19"].f == 1
    # An undefined class makes the averages undefined; scikit-learn would leave it out.
    assert np.isnan(average_classes(one).macro.f)


def test_average_precision_equals_scikit_learns():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    positive, score = rng.random(50) < 0.3, np.round(rng.random(50), 1)
    expected = average_precision_score(positive, score)
    assert scores.average_precision(positive, score) == pytest.approx(expected)
    assert np.isnan(scores.average_precision(np.zeros(3, bool), score[:3]))


def test_findings_leave_out_what_is_not_known():
    rng = np.random.default_rng(0)
    targets, probabilities = rng.random((60, 2)) < 0.4, rng.random((60, 2))
    known = rng.random((60, 2)) < 0.8
    predictions = Predictions(
        ids=[str(i) for i in range(60)],
        patients=[str(i // 2) for i in range(60)],
        targets=targets & known,
        probabilities=probabilities,
        outputs=("Edema", "Mass"),
        known=known,
    )
    found = evaluate_findings(predictions, resamples=50)
    for column, name in enumerate(predictions.outputs):
        use = known[:, column]
        expected = scores.auc(targets[use, column], probabilities[use, column])
        assert found.auc_per_output[name].value == pytest.approx(expected)
        counts = found.counts[name]
        assert counts.unknown == (~use).sum()
        assert counts.positive + counts.negative == use.sum()
    values = [score.value for score in found.auc_per_output.values()]
    assert found.auc.value == pytest.approx(np.mean(values))
