"""Involvement of lungs that are drawn by hand."""

import json
import math

import numpy as np
import pytest

from jaxcovid.data.phantom.slice import draw_lungs, draw_slice
from jaxcovid.evaluation import json_form
from jaxcovid.metrics import involvement as module
from jaxcovid.metrics.involvement import Areas, grade_of, involvement, measure_slice, pool, stack

SHAPE = (60, 100)


def box(top, bottom, left, right):
    mask = np.zeros(SHAPE, bool)
    mask[top:bottom, left:right] = True
    return mask


NOTHING = np.zeros(SHAPE, bool)
RIGHT, LEFT = box(10, 50, 10, 40), box(10, 50, 60, 90)  # of the patient: 1,200 px each
LUNGS = RIGHT | LEFT


def test_areas_of_a_slice_by_hand():
    lesion = box(30, 50, 10, 16)  # 120 px at the back of the right lung, along its outer edge
    found = measure_slice(LUNGS, lesion)
    # The depth of a lung of 40 x 30 is at most 14.5, so that its outer third is 5 px wide: of the
    # 6 x 20 px of the lesion 1 x 15 lie deeper.
    assert found == Areas(
        lungs=2400,
        lesion=120,
        right_lung=1200,
        right=120,
        left_lung=1200,
        left=0,
        peripheral=120 - 15,
        dorsal=120,
    )
    described = involvement(found)
    assert (described.share, described.grade, described.right, described.left) == (
        0.05,
        "CT-1",
        0.1,
        0,
    )
    assert not described.bilateral
    assert described.lower is None
    assert (described.peripheral, described.dorsal) == (105 / 120, 1)


def test_the_lesion_belongs_to_the_lungs_where_their_mask_leaves_it_out():
    lesion = box(30, 50, 10, 40)
    with_it, without_it = measure_slice(LUNGS, lesion), measure_slice(LUNGS & ~lesion, lesion)
    assert with_it == without_it
    assert involvement(without_it).share == 600 / 2400


def test_without_lungs_nothing_is_involved():
    assert measure_slice(NOTHING, LEFT) == Areas()
    found = involvement(Areas())
    assert (found.share, found.grade, found.bilateral) == (0, "CT-0", False)
    assert all(math.isnan(x) for x in (found.right, found.left, found.peripheral, found.dorsal))


@pytest.mark.parametrize(
    ("lesion", "grade"),
    [(0, 0), (9, 0), (10, 1), (2499, 1), (2500, 2), (4999, 2), (5000, 3), (7500, 4), (10_000, 4)],
)
def test_grades_of_10_000_pixels(lesion, grade):
    assert grade_of(lesion, 10_000) == f"CT-{grade}"


def test_a_few_pixels_are_no_involvement_of_a_small_lung():
    assert grade_of(4, 100) == "CT-0"
    assert grade_of(5, 100) == "CT-1"


def test_sides_follow_the_lungs_not_the_image():
    """The patient lies at the left of the image; both lungs are left of its middle."""
    lungs = np.roll(LUNGS, -10, axis=1)[:, :85]
    shifted = np.concatenate([lungs, np.zeros((60, 85), bool)], axis=1)
    both = measure_slice(shifted, shifted & (np.arange(170) < 20))
    assert (both.right_lung, both.left_lung) == (1200, 1200)
    assert (both.right, both.left) == (800, 0)


def test_one_lung_alone_is_on_its_side_of_the_image():
    found = measure_slice(LEFT, LEFT)
    assert (found.right_lung, found.left_lung) == (0, 1200)
    assert math.isnan(involvement(found).right)
    found = measure_slice(LEFT | box(30, 32, 52, 54), NOTHING)
    assert (found.right_lung, found.left_lung) == (0, 1204), "a speck is no second lung"
    front_and_back = LEFT & ~box(28, 32, 0, 100)
    assert measure_slice(front_and_back, NOTHING).left_lung == 1080, "nor is a part of the first"


def test_lungs_that_touch_are_divided_in_the_middle_and_a_lung_that_crosses_it_is_not():
    touching = LUNGS | box(12, 14, 40, 60)
    found = measure_slice(touching, NOTHING)
    assert (found.right_lung, found.left_lung) == (1220, 1220)
    tongue = box(12, 14, 45, 60)  # of the left lung, over the midline
    found = measure_slice(LUNGS | tongue, tongue)
    assert (found.right_lung, found.left_lung, found.left) == (1200, 1230, 30)


def test_bilateral_needs_more_than_specks_on_both_sides():
    specks = box(20, 22, 20, 22)
    large = box(20, 30, 70, 80)
    assert not involvement(measure_slice(LUNGS, specks | large)).bilateral
    assert involvement(measure_slice(LUNGS, box(20, 23, 20, 22) | large)).bilateral
    assert measure_slice(LUNGS, specks | large, least_px=5).right == 0
    assert measure_slice(LUNGS, specks | large, least_px=4).right == 4


def test_the_periphery_is_that_of_a_brute_force_search():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:30, :50]
    for _ in range(5):
        lungs = np.zeros((30, 50), bool)
        for column in (13, 36):
            height, width = rng.uniform(8, 13), rng.uniform(6, 10)
            lungs |= ((rows - 15) / height) ** 2 + ((columns - column) / width) ** 2 < 1
        found = measure_slice(lungs, lungs).peripheral
        outside = np.argwhere(~np.pad(lungs, 1)) - 1
        expected = 0
        for side in (columns < 25, columns >= 25):
            inside = np.argwhere(lungs & side)
            depth = np.sqrt(((inside[:, None] - outside[None]) ** 2).sum(-1)).min(1) - 0.5
            expected += int((depth <= depth.max() / 3).sum())
        assert found == expected
        assert 0.4 < found / lungs.sum() < 0.7  # of an ellipse 1 - (2 / 3)^2 = .56


def test_the_back_half_is_that_of_the_lungs_in_the_slice():
    for shift in (0, 7):
        lesion = np.roll(box(25, 35, 10, 20), shift, axis=0)  # 5 of 10 rows behind the middle
        assert measure_slice(np.roll(LUNGS, shift, axis=0), lesion).dorsal == 50
    odd = box(10, 51, 10, 40)
    assert measure_slice(odd, box(30, 31, 10, 40)).dorsal == 0, "the middle row is not behind"


def test_a_volume_pools_areas_and_has_a_lower_half():
    empty, healthy = measure_slice(NOTHING, NOTHING), measure_slice(LUNGS, NOTHING)
    ill = measure_slice(LUNGS, RIGHT)
    volume = stack([empty, ill, healthy, ill, ill, empty])
    assert (volume.lungs, volume.lesion, volume.lower) == (4 * 2400, 3 * 1200, 1200)
    assert stack([ill, ill, healthy]).lower == 1200, "the middle slice is not of the lower half"
    found = involvement(volume)
    assert (found.share, found.grade, found.lower) == (0.375, "CT-2", 1 / 3)
    assert (found.right, found.left) == (0.75, 0)
    patient = pool([volume, stack([healthy])])
    assert (patient.lungs, patient.lesion, patient.lower) == (5 * 2400, 3600, 1200)
    assert pool([volume, healthy]).lower is None
    assert math.isnan(involvement(stack([])).lower)


@pytest.mark.parametrize(("label", "bilateral"), [("COVID-19", True), ("other pneumonia", False)])
def test_covid_of_the_phantom_is_bilateral_and_its_consolidation_is_not(label, bilateral):
    for patient in range(12):
        lungs = draw_lungs(patient=patient, index=2) > 0
        lesion = draw_slice(patient=patient, index=2, label=label)[1] > 0
        found = involvement(measure_slice(lungs, lesion))
        assert found.bilateral == bilateral
        assert 0 < found.share < 0.75


def test_the_result_becomes_json():
    content = json_form.content_of(involvement(Areas(lungs=100)))
    assert content["grade"] == "CT-0"
    assert "lower" not in content
    reasons = json_form.undefined({"involvement": content})
    assert reasons["involvement/peripheral"] == "there is no lesion"
    assert reasons["involvement/right"] == "no lung is seen on this side"
    json.dumps(json_form.without_nan(content), allow_nan=False)


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="give bool"):
        measure_slice(LUNGS.astype(np.uint8), NOTHING)
    with pytest.raises(ValueError, match=r"bool \(60, 99\)"):
        measure_slice(LUNGS, NOTHING[:, 1:])
    assert module.GRADES[0] == "CT-0"
