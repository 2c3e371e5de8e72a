"""Ablations: what is left of an image, and how much of a heatmap lies in a mask."""

import dataclasses

import cv2
import numpy as np
import pytest

from jaxcovid.data import pipeline
from jaxcovid.data.ablations import ABLATIONS, Ablation, mass_inside
from jaxcovid.data.preprocessing import Preprocessing

GRAY = np.random.default_rng(0).integers(1, 256, (100, 200), np.uint8)


def png(mask):
    return cv2.imencode(".png", 255 * mask.astype(np.uint8))[1].tobytes()


def altered(name, record=None):
    return Ablation(name)(GRAY, record or {})


def test_border_and_centre_share_the_image_out():
    border, centre = altered("border_only"), altered("centre_only")
    np.testing.assert_array_equal(border.astype(int) + centre, GRAY)
    assert not border[15:85, 30:170].any()
    assert (centre[15:85, 30:170] == GRAY[15:85, 30:170]).all()
    assert not centre[:15].any()
    assert (centre > 0).mean() == pytest.approx(0.49)


def test_lungs_only_keeps_what_the_mask_has():
    mask = np.zeros(GRAY.shape, bool)
    mask[20:60, 50:90] = True
    found = altered("lungs_only", {"lung_mask": png(mask)})
    np.testing.assert_array_equal(found, np.where(mask, GRAY, 0))


def test_thumbnail_flip_and_shift():
    small = cv2.resize(altered("thumbnail"), (16, 16), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(GRAY, (16, 16), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - expected).mean() < 10
    np.testing.assert_array_equal(altered("flipped")[:, ::-1], GRAY)
    np.testing.assert_array_equal(altered("brighter"), np.minimum(GRAY.astype(int) + 30, 255))
    np.testing.assert_array_equal(altered("darker"), np.maximum(GRAY.astype(int) - 30, 0))
    for name in ABLATIONS:
        mask = png(np.ones(GRAY.shape, bool))
        found = altered(name, {"lung_mask": mask})
        assert (found.shape, found.dtype) == (GRAY.shape, np.uint8)
    with pytest.raises(ValueError, match="ablation is 'lungs'; use one of border_only"):
        Ablation("lungs")


def test_batches_are_made_of_altered_images():
    record = {"id": "a", "image": cv2.imencode(".png", GRAY)[1].tobytes()}
    five = Preprocessing(size=64, rotation_deg=0.0, translation_fraction=0.0)
    loading = pipeline.Loading(preprocessing=five, batch_size=1, ablation=Ablation("border_only"))
    expected = five(altered("border_only"))
    (batch,) = pipeline.eval_batches([record], loading)
    np.testing.assert_array_equal(batch["image"][0], expected)
    two = dataclasses.replace(loading, batch_size=2)
    batches = pipeline.train_batches(
        [record], two, target=lambda record: np.zeros(1, np.float32), seed=0
    )
    trained = next(batches)
    np.testing.assert_allclose(trained["image"][0], expected, atol=1e-5)


def test_mass_inside_a_mask():
    mask = np.zeros((64, 64), bool)
    mask[:, 32:] = True
    assert mass_inside(np.ones((8, 8)), mask) == pytest.approx(0.5)
    right = np.zeros((8, 8))
    right[:, 6:] = 1
    assert mass_inside(right, mask) == pytest.approx(1)
    assert np.isnan(mass_inside(np.zeros((8, 8)), mask))
