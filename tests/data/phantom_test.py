import collections

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn import linear_model, metrics, pipeline, preprocessing

from jaxcovid.data.builders import phantom
from jaxcovid.data.phantom import slice

PICTURES = ("image", "lung_mask", "lesion_mask")


@pytest.fixture(scope="module")
def slices():
    """Two slices of every sixth patient: (split, patient, index, label) -> image and mask."""
    return {
        (split, patient, index, label): slice.draw_slice(patient=patient, index=index, label=label)
        for split, patients in phantom.plan().items()
        for patient, label in patients[::6]
        for index in (0, 2)
    }


def test_patients_are_disjoint_and_every_split_has_every_class():
    plan = phantom.plan()
    numbers = [patient for patients in plan.values() for patient, _ in patients]
    assert len(numbers) == len(set(numbers))
    assert plan == phantom.plan()
    for patients in plan.values():
        counts = collections.Counter(label for _, label in patients)
        assert set(counts) == set(slice.CLASS_NAMES)
        assert 0.4 < counts["COVID-19"] / len(patients) < 0.5


def test_there_are_enough_slices():
    counts = {
        split: sum(len(slice.slices_of(patient)) for patient, _ in patients)
        for split, patients in phantom.plan().items()
    }
    assert sum(counts.values()) >= 600
    assert counts["train"] >= 400
    assert counts["test"] >= 140


def test_a_mask_marks_exactly_the_diseased(slices):
    for (_, _, _, label), (image, mask) in slices.items():
        assert image.dtype == mask.dtype == np.uint8
        assert image.shape == mask.shape
        assert set(np.unique(mask)) == ({0} if label == "normal" else {0, 255})


def test_disease_lies_in_the_lungs_and_covid_in_both():
    for patient in range(0, 40, 2):
        lungs = slice.draw_lungs(patient=patient, index=1) > 0
        edge = cv2.dilate(lungs.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        middle = np.nonzero(lungs)[1].mean()
        left_half = np.arange(lungs.shape[1])[None] < middle
        for label in ("COVID-19", "other pneumonia"):
            _, mask = slice.draw_slice(patient=patient, index=1, label=label)
            disease = mask > 0
            assert not np.any(disease & ~edge), (patient, label)
            assert disease.sum() > 0.02 * lungs.sum(), (patient, label)
            on_the_left = np.sum(disease & left_half) / disease.sum()
            if label == "COVID-19":
                assert 0.03 < on_the_left < 0.97, patient
            else:
                assert min(on_the_left, 1 - on_the_left) < 0.03, patient


def test_ground_glass_is_a_haze_and_consolidation_hides_the_vessels():
    contrast = collections.defaultdict(list)
    for patient in range(0, 40, 4):
        for label in ("COVID-19", "other pneumonia"):
            healthy, _ = slice.draw_slice(patient=patient, index=1, label="normal")
            image, mask = slice.draw_slice(patient=patient, index=1, label=label)
            core = cv2.erode(mask, np.ones((3, 3), np.uint8)) > 0
            brighter = float(image[core].mean()) - float(healthy[core].mean())
            contrast[label].append(brighter / 255)
    assert 0.08 < np.mean(contrast["COVID-19"]) < 0.35
    assert np.mean(contrast["other pneumonia"]) > 1.3 * np.mean(contrast["COVID-19"])


def test_the_class_changes_nothing_but_the_lungs():
    covid, pneumonia, normal = (
        slice.draw_slice(patient=5, index=0, label=label)[0] for label in slice.CLASS_NAMES
    )
    lungs = slice.draw_lungs(patient=5, index=0)
    outside = cv2.dilate(lungs, np.ones((11, 11), np.uint8)) == 0
    for image in (covid, pneumonia):
        assert image.shape == normal.shape
        assert np.array_equal(image[outside], normal[outside])
        assert not np.array_equal(image, normal)


def test_sizes_vary(slices):
    shapes = {image.shape for image, _ in slices.values()}
    assert len(shapes) > 0.8 * len(slices)
    sizes = np.array(list(shapes))
    assert sizes.min() >= 220
    assert sizes.max() <= 420


def test_drawing_is_deterministic():
    first, second = (
        slice.draw_slice(patient=3, index=1, label="other pneumonia") for _ in range(2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    other, _ = slice.draw_slice(patient=3, index=2, label="other pneumonia")
    assert other.shape != first[0].shape or not np.array_equal(other, first[0])


def test_an_unknown_class_is_an_error():
    with pytest.raises(ValueError, match="'flu' is none of"):
        slice.draw_slice(patient=0, index=0, label="flu")


@pytest.mark.long
def test_build_read_and_no_shortcut(tmp_path):
    builder = phantom.Phantom(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    features, labels, ids = {}, {}, []
    for split, patients in phantom.plan().items():
        source = tfds.builder_from_directory(builder.data_dir).as_data_source(
            split, decoders={name: tfds.decode.SkipDecoding() for name in PICTURES}
        )
        known = {f"patient{number:03d}": label for number, label in patients}
        statistics, thumbnails, truth = [], [], []
        for record in source:
            patient = record["patient"].decode()
            assert slice.CLASS_NAMES[record["label"]] == known[patient]
            assert record["id"].decode().startswith(f"{patient}_slice")
            ids.append(record["id"])
            image, lungs, lesion = (
                cv2.imdecode(np.frombuffer(record[name], np.uint8), cv2.IMREAD_UNCHANGED)
                for name in PICTURES
            )
            assert image.shape == lungs.shape == lesion.shape
            assert lesion.any() == (known[patient] != "normal")
            assert 0.05 < (lungs > 0).mean() < 0.7
            assert lungs[lesion > 0].all()
            statistics.append(_statistics(image))
            thumbnails.append(cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA).ravel())
            truth.append(record["label"] == 0)
        features[split], labels[split] = (statistics, thumbnails), truth
    assert len(set(ids)) == len(ids) >= 600

    for name, column, limit in (("statistics", 0, 0.65), ("thumbnails", 1, 0.80)):
        model = pipeline.make_pipeline(
            preprocessing.StandardScaler(), linear_model.LogisticRegression(C=1.0, max_iter=2000)
        )
        model.fit(features["train"][column], labels["train"])
        score = model.decision_function(features["test"][column])
        auc = metrics.roc_auc_score(labels["test"], score)
        assert auc < limit, f"{name} alone tell COVID-19 from the rest: AUC {auc:.3f} >= {limit}"


def _statistics(image):
    """What needs no look at the image: float [37]."""
    histogram = np.histogram(image, 32, (0, 256))[0] / image.size
    height, width = image.shape
    return np.concatenate([[image.mean(), image.std()], histogram, [height, width, width / height]])
