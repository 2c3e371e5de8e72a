"""Figures from masks: small cases by hand, and random masks against brute force."""

import dataclasses
import json

import numpy as np
import pytest

from jaxcovid.evaluation import json_form
from jaxcovid.metrics.mask_geometry import hausdorff_95, without_specks
from jaxcovid.metrics.segmentation import MaskComparison

SHAPE = (20, 20)


def box(top, bottom, left, right, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


NOTHING = np.zeros(SHAPE, bool)
SQUARE = box(5, 15, 5, 15)  # 100 px


def compared(*slices, spacing_mm=None, **options):
    comparison = MaskComparison(**options)
    for volume, truth, predicted in slices:
        comparison.add(volume, truth, predicted, spacing_mm=spacing_mm)
    return comparison.scores(resamples=50)


def blobs(rng, shape, density):
    """A random mask of lumps of several pixels."""
    mask = rng.random(shape) < density
    for axis in (*range(len(shape)), *range(len(shape))):
        mask = mask | np.roll(mask, 1, axis)
    return mask


def brute_hausdorff_95(truth, predicted, spacing):
    """By the definition: every pair of surface pixels, neighbours looked at one by one."""

    def surface(mask):
        padded, points = np.pad(mask, 1), []
        for index in zip(*np.nonzero(padded), strict=True):
            steps = [s * e for e in np.eye(mask.ndim, dtype=int) for s in (-1, 1)]
            if not all(padded[tuple(np.add(index, step))] for step in steps):
                points.append(np.multiply(index, spacing))
        return np.array(points)

    one, two = surface(truth), surface(predicted)
    pairs = np.sqrt(((one[:, None] - two[None]) ** 2).sum(-1))
    return max(np.percentile(pairs.min(axis), 95) for axis in (0, 1))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 0.9), (5.0, 0.7, 0.8)])
def test_the_hausdorff_distance_is_that_of_all_pairs_of_surface_pixels(spacing):
    rng = np.random.default_rng(0)
    for _ in range(10):
        truth, predicted = (blobs(rng, (9, 12, 11)[: len(spacing)], 0.03) for _ in range(2))
        expected = brute_hausdorff_95(truth, predicted, spacing)
        assert hausdorff_95(truth, predicted, spacing) == pytest.approx(expected, rel=1e-12)
        assert hausdorff_95(predicted, truth, spacing) == pytest.approx(expected, rel=1e-12)


def test_the_hausdorff_distance_of_shifted_squares_is_the_shift():
    assert hausdorff_95(SQUARE, np.roll(SQUARE, 3, axis=1)) == 3
    assert hausdorff_95(SQUARE, np.roll(SQUARE, 3, axis=1), (1.0, 0.5)) == 1.5
    assert hausdorff_95(SQUARE, SQUARE) == 0
    # One far pixel among the 37 of a surface is beyond the 95th percentile; three of 39 are not.
    assert hausdorff_95(SQUARE, SQUARE | box(0, 1, 0, 1)) == 0
    assert hausdorff_95(SQUARE, SQUARE | box(0, 1, 0, 3)) > 5


def test_a_pixel_at_the_border_of_the_image_is_of_the_surface():
    whole = np.ones((7, 7), bool)
    assert hausdorff_95(whole, box(3, 4, 3, 4, (7, 7))) == pytest.approx(np.sqrt(18))


def test_figures_of_one_slice_by_hand():
    predicted = box(5, 15, 10, 20)  # half of the square, and as much beside it
    found = compared(("a", SQUARE, predicted)).volumes["a"]
    assert dataclasses.asdict(found) == {
        "slices": 1,
        "truth": 100,
        "predicted": 100,
        "dice": 0.5,
        "hausdorff": 5.0,
        "without_distance": 0,
        "volume_error": 0.0,
        "lesions": 1,
        "detected": 1,
        "false_positives": 0,
    }


def test_dice_and_volume_are_pooled_over_a_volume_and_averaged_over_volumes():
    small = box(0, 2, 0, 5)  # 10 px
    found = compared(("a", SQUARE, SQUARE), ("a", small, NOTHING), ("b", small, box(0, 2, 0, 10)))
    assert found.volumes["a"].dice == pytest.approx(2 * 100 / (110 + 100))
    assert found.volumes["a"].volume_error == pytest.approx(-10 / 110)
    assert found.volumes["b"].dice == pytest.approx(2 * 10 / (10 + 20))
    assert found.volumes["b"].volume_error == 1
    assert found.dice.value == pytest.approx((200 / 210 + 2 / 3) / 2)
    assert found.volume_error.value == pytest.approx((1 - 1 / 11) / 2)
    assert found.absolute_volume_error.value == pytest.approx((1 + 1 / 11) / 2)
    assert (found.n, found.n_volumes, found.both_empty, found.without_truth) == (3, 2, 0, 0)


def test_empty_masks():
    found = compared(
        ("both empty", NOTHING, NOTHING),
        ("missed", SQUARE, NOTHING),
        ("invented", NOTHING, SQUARE),
        ("right", SQUARE, SQUARE),
        ("right", NOTHING, NOTHING),
    )
    dice = {name: each.dice for name, each in found.volumes.items()}
    assert np.isnan(dice.pop("both empty"))
    assert dice == {"missed": 0, "invented": 0, "right": 1}
    assert (found.both_empty, found.dice.value) == (1, pytest.approx(1 / 3))
    assert (found.without_distance, found.hausdorff.value) == (2, 0)
    assert (found.without_truth, found.volume_error.value) == (2, -0.5)
    assert (found.n_lesions, found.lesion_sensitivity.value) == (2, 0.5)
    assert found.false_positives_per_slice.value == 1 / 5
    nothing = compared(("a", NOTHING, NOTHING))
    for score in (nothing.dice, nothing.hausdorff, nothing.volume_error):
        assert np.isnan([score.value, score.low, score.high]).all()


def test_lesions_and_false_positives_count_from_their_least_size_and_cover():
    truth = box(0, 4, 0, 5) | box(10, 14, 10, 15) | box(18, 20, 0, 4)  # 20, 20 and 8 px
    predicted = (
        box(0, 2, 0, 5)  # half of the first
        | box(10, 12, 10, 15) & ~box(10, 11, 10, 11)  # 9 of 20 of the second
        | box(19, 20, 3, 13)  # 10 px, one of them of the third, which is too small
        | box(0, 2, 10, 15)  # 10 px that touch nothing
        | box(5, 8, 17, 20)  # 9 px that touch nothing
    )
    found = compared(("a", truth, predicted), least_px=10, least_cover=0.5).volumes["a"]
    assert (found.lesions, found.detected, found.false_positives) == (2, 1, 1)
    found = compared(("a", truth, predicted), least_px=8, least_cover=0.25).volumes["a"]
    assert (found.lesions, found.detected, found.false_positives) == (3, 2, 2)


def test_pixels_that_share_a_corner_are_one_lesion():
    diagonal = np.eye(20, dtype=bool)
    assert compared(("a", diagonal, diagonal)).volumes["a"].lesions == 1
    assert without_specks(diagonal, 20).sum() == 20
    assert without_specks(diagonal, 21).sum() == 0


def test_a_whole_volume_with_its_spacing_is_measured_in_3d():
    truth = np.zeros((6, *SHAPE), bool)
    truth[1:5, 5:15, 5:15] = True
    predicted = np.roll(truth, 1, axis=0)  # by one slice of 5 mm
    found = compared(("a", truth, predicted), spacing_mm=(5.0, 0.8, 0.8))
    assert (found.hausdorff.value, found.hausdorff_unit, found.hausdorff_dimensions) == (5, "mm", 3)
    assert (found.n, found.n_lesions, found.volumes["a"].dice) == (6, 1, 0.75)
    # The same slices without the spacing between them: four lesions, one of them missed.
    for spacing, unit in (((0.8, 0.8), "mm"), (None, "px")):
        flat = compared(("a", truth, predicted), spacing_mm=spacing)
        assert (flat.hausdorff.value, flat.hausdorff_unit, flat.hausdorff_dimensions) == (
            0,
            unit,
            2,
        )
        assert (flat.n, flat.n_lesions, flat.without_distance) == (6, 4, 2)
        assert flat.volumes["a"].false_positives == 1


def test_slices_may_come_in_any_order_and_alone_or_together():
    rng = np.random.default_rng(1)
    masks = np.stack([[blobs(rng, SHAPE, 0.02) for _ in range(12)] for _ in range(2)])
    volumes = [f"volume {i % 3}" for i in range(12)]
    forwards = compared(*zip(volumes, *masks, strict=True))
    backwards = compared(*reversed(list(zip(volumes, *masks, strict=True))))
    together = compared(*((f"volume {i}", *masks[:, i::3]) for i in range(3)))
    for other in (backwards, together):
        for score in ("dice", "hausdorff", "lesion_sensitivity", "false_positives_per_slice"):
            expected = dataclasses.astuple(getattr(forwards, score))
            assert dataclasses.astuple(getattr(other, score)) == pytest.approx(expected, rel=1e-12)


def test_intervals_are_over_volumes():
    rng = np.random.default_rng(2)
    slices = []
    for volume in range(8):
        missing = rng.random() / 2
        for _ in range(5):
            slices.append((f"volume {volume}", SQUARE, SQUARE & (rng.random(SHAPE) > missing)))
    found = compared(*slices)
    for score in (found.dice, found.hausdorff, found.volume_error, found.absolute_volume_error):
        assert score.low < score.value < score.high
    assert found.volume_error.high < 0 < found.absolute_volume_error.low
    alone = compared(*((str(i), *masks) for i, (_, *masks) in enumerate(slices)))
    assert alone.dice.high - alone.dice.low < 0.8 * (found.dice.high - found.dice.low)


def test_the_result_becomes_json_with_reasons_for_what_is_undefined():
    content = json_form.content_of(compared(("a", NOTHING, NOTHING)))
    assert set(content["dice"]) == {"value", "low", "high", "left_out"}
    reasons = json_form.undefined({"segmentation": content})
    assert reasons["segmentation/dice/value"] == "both masks are empty"
    assert reasons["segmentation/volumes/a/dice"] == "both masks are empty"
    assert reasons["segmentation/hausdorff/value"] == "no slice has both masks"
    assert reasons["segmentation/volume_error/value"] == "the true masks are empty"
    assert reasons["segmentation/lesion_sensitivity/value"] == "there is no lesion"
    json.dumps(json_form.without_nan(content), allow_nan=False)


def test_what_cannot_be_compared_is_refused():
    comparison = MaskComparison()
    with pytest.raises(ValueError, match="no masks were added"):
        comparison.scores()
    with pytest.raises(ValueError, match="uint8 and bool; give bool"):
        comparison.add("a", SQUARE.astype(np.uint8), SQUARE)
    with pytest.raises(ValueError, match=r"\(20, 20\) and \(20, 19\)"):
        comparison.add("a", SQUARE, SQUARE[:, 1:])
    with pytest.raises(ValueError, match=r"spacing_mm is \(5.0, 1.0, 1.0\)"):
        comparison.add("a", SQUARE, SQUARE, spacing_mm=(5.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="above 0"):
        comparison.add("a", SQUARE, SQUARE, spacing_mm=(0.0, 1.0))
    comparison.add("a", SQUARE, SQUARE)
    with pytest.raises(ValueError, match="2-D and mm here, in 2-D and px before"):
        comparison.add("b", SQUARE, SQUARE, spacing_mm=(1.0, 1.0))
    volumes = MaskComparison()
    volumes.add("a", SQUARE[None], SQUARE[None], spacing_mm=(5.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="was added before"):
        volumes.add("a", SQUARE[None], SQUARE[None], spacing_mm=(5.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="least_cover 0"):
        MaskComparison(least_cover=0)
