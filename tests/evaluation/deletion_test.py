"""Deletion curves of a network whose probability is the share of a region that is intact."""

import itertools

import cv2
import numpy as np
import pytest

from jaxcovid.data.lung_focus import View
from jaxcovid.evaluation import deletion
from jaxcovid.evaluation.deletion import RANDOM, SHARES, deletion_areas

SIZE = 64
REGION = np.zeros((SIZE, SIZE), bool)
REGION[:32, :32] = True  # a quarter
IMAGES = list(np.random.default_rng(0).integers(0, 256, (10, SIZE, SIZE)).astype(np.uint8))


class Network:
    """Knows its images and their blurred versions; every pixel of its input is of either."""

    def __init__(self, batch_size=4):
        self.batch_size = batch_size
        self.originals = self.prepare(IMAGES)[0]

    def prepare(self, images):
        inputs = [image.astype(np.float32)[..., None] for image in images]
        return inputs, [View.whole(image.shape) for image in images]

    def probabilities_of_inputs(self, inputs):
        intact = np.array([self.intact(each)[REGION].mean() for each in inputs])
        return np.stack([intact, 1 - intact], axis=1)

    def intact(self, image):
        """Where an input is as it was, bool [h, w]."""
        for original in self.originals:
            blurred = cv2.GaussianBlur(original, (0, 0), 5 / 224 * SIZE)[..., None]
            if ((image == original) | (image == blurred)).all():
                return (image == original)[..., 0]
        raise AssertionError("an input that is no mixture of an image and its blurred version")


def area(curve):
    """By the trapezoidal rule, of a function of the share."""
    return sum((b - a) * (curve(a) + curve(b)) / 2 for a, b in itertools.pairwise(SHARES))


def test_areas_of_the_best_and_the_worst_map_by_hand():
    maps = {"best": [REGION * 1.0] * 10, "worst": [1.0 - REGION] * 10}
    found = deletion_areas(Network(), IMAGES, maps)
    np.testing.assert_allclose(found["best"], area(lambda s: max(0, 1 - 4 * s)), atol=2e-3)
    np.testing.assert_allclose(found["worst"], area(lambda s: min(1, 4 * (1 - s))), atol=2e-3)
    assert found[RANDOM].mean() == pytest.approx(area(lambda s: 1 - s), abs=0.1)
    assert found[RANDOM].std() > 0.05


def test_equals_sorting_the_pixels_of_an_enlarged_map():
    rng = np.random.default_rng(1)
    small = rng.random((10, 5, 5))
    found = deletion_areas(Network(), IMAGES, {"a": small})["a"]
    for value, each in zip(found, small, strict=True):
        large = cv2.resize(each.astype(np.float32), (SIZE, SIZE))
        pixels = sorted(zip(-large.ravel(), REGION.ravel(), strict=True))
        left = 1 - np.cumsum([inside for _, inside in pixels]) / REGION.sum()
        expected = area(lambda s: 1.0 if s == 0 else left[int(np.ceil(s * SIZE**2)) - 1])  # noqa: B023
        assert value == pytest.approx(expected, abs=1e-9)


def test_equally_rated_pixels_go_in_random_order():
    found = deletion_areas(Network(), IMAGES, {"constant": np.ones((10, 4, 4))})
    np.testing.assert_array_equal(found["constant"], found[RANDOM])


def test_an_empty_map_has_no_area_and_batches_change_nothing():
    maps = {"a": np.random.default_rng(2).random((10, 4, 4))}
    maps["a"][3] = 0
    found = deletion_areas(Network(), IMAGES, maps)
    assert np.flatnonzero(np.isnan(found["a"])).tolist() == [3]
    assert not np.isnan(found[RANDOM]).any()
    for name, values in deletion_areas(Network(batch_size=7), IMAGES, maps).items():
        np.testing.assert_array_equal(values, found[name])


def test_random_order_is_as_coarse_as_a_heatmap():
    """Cells of 16 pixels: neighbours are mostly deleted together."""
    image, rng = IMAGES[0].astype(np.float32)[..., None], np.random.default_rng(3)
    random = deletion._enlarged(rng.random((4, 4)), SIZE)
    half = list(deletion._deleted(image, random, random))[SHARES.index(0.4)] != image
    assert half.mean() == pytest.approx(0.4, abs=0.01)
    assert (half[1:] == half[:-1]).mean() > 0.9
