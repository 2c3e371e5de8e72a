"""The detector lets images of its kind through and flags all others."""

import cv2
import numpy as np
import pytest
from conftest import open_real
from sklearn.datasets import load_sample_images

from jaxcovid.data.decoding import as_gray, colour_of, decode_gray
from jaxcovid.inference import out_of_distribution as ood


def blobs(count, seed, *, size=96):
    """Dark images with a bright disc, of one kind."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        image = rng.integers(40, 80, (size, size), np.uint8)
        centre = rng.integers(40, 56, 2).tolist()
        cv2.circle(image, centre, int(rng.integers(18, 26)), 200, -1)
        yield cv2.GaussianBlur(image, (5, 5), 0)


@pytest.fixture(scope="module")
def detector():
    trained = [ood.features(gray) for gray in blobs(120, 0)]
    held_out = [ood.features(gray) for gray in blobs(40, 1)]
    return ood.fit_detector(trained, held_out, [0.0] * 160)


def test_its_own_kind_passes_and_others_do_not(detector, tmp_path):
    warned = [bool(detector.warning(gray)) for gray in blobs(200, 2)]
    assert np.mean(warned) <= 0.05
    rng = np.random.default_rng(3)
    for gray in (
        rng.integers(0, 256, (96, 96), np.uint8),
        255 - next(blobs(1, 4)),
        next(blobs(1, 4))[:, :40].copy(),
        np.tile(np.arange(96, dtype=np.uint8) * 2, (96, 1)),
    ):
        assert "unlike the training images" in detector.warning(gray)
    detector.save(tmp_path)
    loaded = ood.load_detector(tmp_path)
    for gray in (next(blobs(1, 5)), rng.integers(0, 256, (96, 96), np.uint8)):
        assert loaded.warning(gray) == detector.warning(gray)
    assert ood.load_detector(tmp_path / "none") is None
    (tmp_path / ood.FILE).rename(tmp_path / "guard.npz")  # as the first release called it
    assert ood.load_detector(tmp_path).warning(gray) == detector.warning(gray)


def test_blank_and_colour_images(detector):
    for value in (0, 128, 255):
        assert detector.warning(np.full((64, 64), value, np.uint8)) == "a blank image"
    for photograph in load_sample_images().images:
        encoded = cv2.imencode(".png", photograph[..., ::-1])[1].tobytes()
        assert colour_of(encoded) == pytest.approx(colour_of(photograph), rel=0.2)
        assert "colour" in detector.warning(as_gray(photograph), colour_of(photograph))
    assert colour_of(next(blobs(1, 0))) == 0
    gray = next(blobs(1, 6))
    assert colour_of(cv2.imencode(".jpg", np.dstack([gray] * 3))[1].tobytes()) < 1
    tinted = np.dstack([gray, 0.9 * gray, 0.7 * gray]).astype(np.uint8)
    assert colour_of(tinted) < 1
    marked = tinted.copy()
    marked[:30, :30] = (255, 0, 0)
    assert colour_of(marked) > 10


def test_too_few_images_make_no_detector():
    few = [ood.features(gray) for gray in blobs(5, 0)]
    assert ood.fit_detector(few, few, [0.0] * 10) is None


@pytest.mark.long
@pytest.mark.parametrize("name", ["covid_ct", "covid_chestxray"])
def test_real_ct_and_xrays_are_told_apart(name, real_data):
    """At least 95 % of the other modality is flagged, at most 2 % of the own test images."""
    dataset = open_real(name, real_data)
    found = ood.detector_of_sources(dataset.source("train"), dataset.source("validation"))

    def share(other, split):
        source = open_real(other, real_data).source(split)
        images = [source[i]["image"] for i in range(len(source))]
        return np.mean([bool(found.warning(decode_gray(d), colour_of(d))) for d in images])

    assert share(name, "test") <= 0.02
    films = ("covid_chestxray", "chestxray14", "chest_xray_pneumonia")
    for other in films if name == "covid_ct" else ("covid_ct",):
        assert share(other, "test") >= 0.95, other
    for photograph in load_sample_images().images:
        assert found.warning(as_gray(photograph), colour_of(photograph))
