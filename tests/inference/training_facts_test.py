"""The facts of a training name what separates its classes, and nothing of anybody."""

import types
import zipfile

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import jaxcovid
from jaxcovid.data.labels import UNKNOWN
from jaxcovid.data.picture_facts import BLACK, FACTS, measure
from jaxcovid.inference import training_facts
from jaxcovid.inference.training_facts import Counts, TrainingFacts, load_training_facts
from jaxcovid.training import startup
from jaxcovid.workdir.run import WorkdirError

NAMES = [fact.name for fact in FACTS]


def picture(level, seed, size=64):
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(level, 12, (size, size)), BLACK + 1, 255).astype(np.uint8)


def record(gray, target, name="patient Smith"):
    data = cv2.imencode(".png", gray)[1].tobytes()
    return {"image": data, "id": name, "patient": name, "target": target}


def encode(one):
    return np.array([one["target"]], np.float32)


def bright_positives(count):
    """Records of which the positive ones, every fourth, are brighter, and nothing else differs."""
    levels = np.random.default_rng(count).uniform(0, 20, count)
    return [
        record(picture(level + (140 if i % 4 == 0 else 70), i), float(i % 4 == 0))
        for i, level in enumerate(levels)
    ]


def hand_made(**columns):
    """30 images, of which the last 10 are positive; facts that are not named are all 0."""
    facts = np.zeros((30, len(FACTS)))
    for name, values in columns.items():
        facts[:, NAMES.index(name.replace("_", " "))] = values
    return TrainingFacts(facts, np.arange(30) >= 20, Counts(100, 400), Counts(3, 10))


@pytest.fixture(scope="module")
def facts():
    return training_facts.facts_of_splits(
        (bright_positives(200), encode), (bright_positives(40), encode)
    )


def test_what_separates_the_classes_is_named_with_its_share(facts):
    assert facts.training == (50, 200)
    assert facts.validation == (10, 40)
    assert facts.prevalence == 0.25
    bright, dark = (facts.neighbours(picture(level, 999)) for level in (150, 80))
    for found, share in ((bright, 1.0), (dark, 0.0)):
        by_name = {each.name: each for each in found}
        assert {"mean gray", "brightness of the border"} <= set(by_name)
        assert not {"width", "height", "aspect ratio", "black pixels", "colour"} & set(by_name)
        gray = by_name["mean gray"]
        assert (gray.share, gray.overall, gray.auc, gray.count) == (share, 0.25, 1.0, 20)
        assert gray.unit == "gray levels"
        assert not gray.outside
        departures = [abs(each.share - each.overall) for each in found]
        assert departures == sorted(departures, reverse=True)
    assert bright[0].share == 1.0
    white = {each.name: each for each in facts.neighbours(np.full((64, 64), 250, np.uint8))}
    assert white["mean gray"].outside
    assert white["mean gray"].highest < white["mean gray"].value == 250


def test_the_closest_are_counted_by_hand():
    made = hand_made(sharpness=np.arange(30), contrast=[*range(10), *[100] * 10, *[101] * 10])
    values = measure(picture(80, 0), 0.0, None)
    values[NAMES.index("sharpness")] = 19
    values[NAMES.index("contrast")] = 100
    found = {
        name: made._neighbours(NAMES.index(name), float(values[NAMES.index(name)]))
        for name in ("sharpness", "contrast")
    }
    # 10 of 30 are asked for; 14 and 24 are equally far from 19.
    assert found["sharpness"].count == 11
    assert found["sharpness"].share == pytest.approx(5 / 11)
    # Ten are at no distance, none of them positive.
    assert (found["contrast"].count, found["contrast"].share) == (10, 0.0)
    assert (found["contrast"].lowest, found["contrast"].highest) == (0, 101)
    assert found["sharpness"].overall == 0.25
    assert made.prevalence == 0.3


def test_separation_is_that_of_scikit_learn_and_weak_facts_are_left_out():
    rng = np.random.default_rng(0)
    falling, weak = -np.arange(30.0), rng.permutation(30)
    made = hand_made(contrast=falling, sharpness=weak)
    for name, column in (("contrast", falling), ("sharpness", weak)):
        auc = roc_auc_score(made.positive, column)
        assert made.aucs[NAMES.index(name)] == pytest.approx(max(auc, 1 - auc))
    assert made.aucs[NAMES.index("contrast")] == 1
    assert made.aucs[NAMES.index("width")] == 0.5
    assert made.aucs[NAMES.index("sharpness")] < training_facts.TELLING_AUC
    assert [each.name for each in made.neighbours(picture(80, 0))] == ["contrast"]


def test_the_fact_that_departs_most_comes_first():
    near = [*[0] * 6, *[50] * 14, *[0] * 4, *[60] * 6]  # 4 of the 10 images at 0 are positive
    made = hand_made(contrast=near, sharpness=np.arange(-29, 1), mean_gray=np.arange(30))
    found = made.neighbours(np.zeros((64, 64), np.uint8))
    by_share = {each.name: each.share for each in found}
    assert by_share == {"sharpness": 1.0, "contrast": 0.4, "mean gray": 0.0}
    assert [each.name for each in found] == ["sharpness", "mean gray", "contrast"]


def test_the_size_of_a_file_is_left_out_where_it_is_not_known():
    made = hand_made(file_size=np.arange(30))
    assert made.neighbours(picture(80, 0)) == []
    (found,) = made.neighbours(picture(80, 0), 0.0, 64 * 64 * 29)
    assert (found.value, found.share) == (29, 1.0)


def test_facts_by_hand():
    gray = np.full((100, 200), 100, np.uint8)
    gray[:, :50] = 0
    values = dict(zip(NAMES, measure(gray, 3.0, 5000), strict=True))
    assert values["width"] == 200
    assert values["height"] == 100
    assert values["aspect ratio"] == 2
    assert values["file size"] == 0.25
    assert values["mean gray"] == 75
    assert values["contrast"] == pytest.approx(100 * np.sqrt(3) / 4, abs=1e-3)
    assert values["black pixels"] == 25
    assert values["colour"] == 3
    # Of the ring of 60 cells, 16 on the left and 3 more above and below are black.
    assert values["brightness of the border"] == pytest.approx(100 * (60 - 22) / 60, abs=1e-3)
    blurred = cv2.GaussianBlur(picture(80, 0, 128), (9, 9), 0)
    sharp = NAMES.index("sharpness")
    assert measure(blurred, 0, None)[sharp] < measure(picture(80, 0, 128), 0, None)[sharp] / 4


def test_images_of_unknown_class_and_damaged_ones_do_not_count():
    source = bright_positives(80)
    unknown = [record(picture(250, i), UNKNOWN) for i in range(80)]
    damaged = [{"image": b"no image", "id": "x", "patient": "x", "target": 1.0}]
    validation = source[:20] + unknown[:7]
    made = training_facts.facts_of_splits(
        (source + unknown + damaged, encode), (validation, encode)
    )
    assert made.positive.sum() == 20
    assert made.positive.size == 80
    assert made.facts[:, NAMES.index("mean gray")].max() < 200
    assert made.training == (21, 81)
    assert made.validation == (5, 20)


@pytest.mark.parametrize(
    ("training", "validation"),
    [
        (bright_positives(80)[:19], bright_positives(20)),
        ([each for each in bright_positives(80) if each["target"]], bright_positives(20)),
        (bright_positives(80), bright_positives(20)[1:4]),
    ],
    ids=["few", "one class", "one class of validation"],
)
def test_too_little_makes_no_facts(training, validation):
    assert training_facts.facts_of_splits((training, encode), (validation, encode)) is None


def test_at_most_2000_images_are_kept(monkeypatch):
    monkeypatch.setattr(training_facts, "MOST_IMAGES", 25)
    source = bright_positives(80)
    made = training_facts.facts_of_splits((source, encode), (source, encode))
    chosen = np.random.default_rng(0).permutation(80)[:25]  # as the detector chooses them
    assert made.positive.sum() == sum(index % 4 == 0 for index in chosen)
    assert made.training == (20, 80)


def test_the_file_holds_numbers_and_no_row_is_an_image(facts, tmp_path):
    facts.save(tmp_path)
    path = tmp_path / training_facts.FILE
    content = path.read_bytes()
    assert b"Smith" not in content
    assert b"patient" not in content
    with zipfile.ZipFile(path) as archive:
        names = ["facts.npy", "positive.npy", "training.npy", "validation.npy"]
        assert archive.namelist() == names
    with np.load(path, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind in "fbi" for name in arrays)
        stored, positive = arrays["facts"], arrays["positive"]
    for side in (True, False):
        assert (np.diff(stored[positive == side], axis=0) >= 0).all()
    loaded = load_training_facts(tmp_path)
    assert (loaded.training, loaded.validation) == (facts.training, facts.validation)
    for level in (20, 80, 150):
        image = picture(level, 7)
        assert loaded.neighbours(image) == facts.neighbours(image)
    assert load_training_facts(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"facts": np.zeros((30, 9))}, r"facts is float64 \(30, 9\)"),
        ({"facts": np.full((30, len(FACTS)), np.nan)}, "facts are not finite"),
        ({"facts": np.zeros((30, len(FACTS)), np.float32)}, "facts is float32"),
        ({"facts": np.zeros(2**18)}, "at most 1,048,576 are accepted"),
        ({"positive": np.zeros(30)}, "positive is float64"),
        ({"positive": np.zeros(30, bool)}, "all images are of one class"),
        ({"positive": np.ones(7, bool), "facts": np.zeros((7, len(FACTS)))}, "7 images"),
        ({"training": np.array([3, 2, 1])}, r"training is int64 \(3,\)"),
        ({"validation": np.array([0, 12])}, "0 of 12 images of validation are positive"),
        ({"validation": np.array([13, 12])}, "13 of 12 images"),
        ({"training": np.array(["a", "b"])}, "training is <U1"),
    ],
)
def test_a_damaged_file_is_named_with_the_fix(change, reason, tmp_path):
    made = hand_made(sharpness=np.arange(30))
    made.save(tmp_path)
    assert load_training_facts(tmp_path).training == (100, 400)
    arrays = {**vars(made), **change}
    np.savez(tmp_path / training_facts.FILE, **arrays)
    message = rf"training_facts\.npz is damaged: .*{reason}.*; train again, or remove it"
    with pytest.raises(WorkdirError, match=message):
        load_training_facts(tmp_path)


@pytest.mark.parametrize(
    ("screens", "classifies", "written"),
    [(True, True, True), (False, True, False), (True, False, False)],
    ids=["screening", "findings", "segmentation alone or pre-training"],
)
def test_only_a_training_for_a_positive_class_writes_it(screens, classifies, written, tmp_path):
    split = types.SimpleNamespace(source=bright_positives(40), encode=encode)
    experiment = types.SimpleNamespace(
        run=types.SimpleNamespace(task=types.SimpleNamespace(screens=screens)),
        model=types.SimpleNamespace(classifies=classifies),
        training=split,
        validation=split,
    )
    startup._save_training_facts(experiment, tmp_path)
    assert (load_training_facts(tmp_path) is not None) == written


def test_a_training_writes_it_and_its_network_has_it(trained):
    network = jaxcovid.load(trained)
    assert network.training_facts.training == (12, 24)
    assert network.training_facts.validation == (4, 9)
    assert network.training_facts.prevalence == pytest.approx(4 / 9)
    gray = np.random.default_rng(0).integers(60, 120, (80, 80), np.uint8)
    cv2.circle(gray, (40, 40), 14, 230, -1)
    found = {each.name: each for each in network.training_facts.neighbours(gray)}
    assert found["contrast"].auc == 1
    assert found["contrast"].share > found["contrast"].overall == 0.5
