"""Contours of masks on a slice, and sheets of many."""

import cv2
import numpy as np
import pytest

from jaxcovid.evaluation.segmentation_result import OutlinedSlice
from jaxcovid.inference.overlay import COLOURS, contours
from jaxcovid.report import gallery

GRAY = np.random.default_rng(0).integers(40, 90, (64, 80)).astype(np.uint8)
# Machado, Oliveira & Fernandes 2009 (doi 10.1109/TVCG.2009.113), whole loss, linear RGB.
DEFICIENCIES = {
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def masks_with(lungs=(), lesion=(), shape=GRAY.shape):
    masks = np.zeros((*shape, 2), np.uint8)
    if lungs:
        masks[(*lungs, 0)] = 1
    if lesion:
        masks[(*lesion, 1)] = 1
    return masks


def drawn(picture, name):
    return (picture == COLOURS[name]).all(-1)


def test_a_contour_is_one_pixel_wide_and_around_the_mask():
    picture = contours(GRAY, masks_with(lesion=(slice(10, 13), slice(20, 24))))
    expected = np.zeros(GRAY.shape, bool)
    expected[[9, 13], 20:24] = expected[10:13, [19, 24]] = True
    np.testing.assert_array_equal(drawn(picture, "lesion"), expected)
    np.testing.assert_array_equal(picture[~expected], np.dstack([GRAY] * 3)[~expected])


def test_a_lesion_is_outlined_over_the_lungs_and_so_are_holes():
    masks = masks_with((slice(5, 60), slice(5, 70)), (slice(0, 9), slice(30, 40)))
    masks[30, 30, 0] = 0
    picture = contours(GRAY, masks.astype(bool))
    assert drawn(picture, "lesion")[4, 29]  # where both have their outline
    assert drawn(picture, "lungs")[4, 20]
    assert drawn(picture, "lungs")[30, 30]
    assert not drawn(contours(GRAY, np.where(masks, 255, 0)), "lungs").any()  # not known


def test_a_large_picture_has_a_legend_in_its_corner():
    large = np.full((512, 320), 200, np.uint8)
    picture = contours(large, masks_with(shape=large.shape))
    changed = np.argwhere((picture != 200).any(-1))
    assert changed.min(0).tolist() == [472, 0]
    assert changed.max(0)[1] < 90
    for name in COLOURS:
        assert drawn(picture, name).sum() > 30
    assert (contours(large[:319], masks_with(shape=(319, 320))) == 200).all()


def test_their_colours_are_distinct_with_every_colour_vision_deficiency():
    colours = np.array([*COLOURS.values(), (128, 128, 128)]) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    for name, matrix in DEFICIENCIES.items():
        seen = (linear @ np.transpose(matrix)).clip(0, 1)
        seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
        lab = cv2.cvtColor(seen[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
        for first, second in ((0, 1), (0, 2), (1, 2)):
            assert np.linalg.norm(lab[first] - lab[second]) > 20, (name, first, second)


@pytest.mark.parametrize(
    ("gray", "masks", "message"),
    [
        (GRAY.astype(float), masks_with(), "gray is float64"),
        (np.dstack([GRAY] * 3), masks_with(), "gray is uint8"),
        (GRAY, masks_with()[..., :1], r"masks are \(64, 80, 1\)"),
        (GRAY, masks_with(shape=(80, 64)), r"masks are \(80, 64, 2\)"),
    ],
)
def test_what_cannot_be_outlined_is_refused(gray, masks, message):
    with pytest.raises(ValueError, match=message):
        contours(gray, masks)


def test_a_sheet_has_every_slice_with_lines_that_scaling_leaves_alone():
    masks = masks_with((slice(16, 48), slice(20, 60)), (slice(30, 40), slice(25, 35)))
    each = OutlinedSlice(GRAY, masks, "b" * 300)
    wide = np.zeros((1000, 2000), np.uint8), np.zeros((1000, 2000, 2), bool)
    content = gallery.contour_sheet([each] * 6 + [OutlinedSlice(*wide, "wide\nslice")])
    sheet = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert sheet.shape == (2 * (288 + 20) + 40, 5 * 288, 3)
    tile = sheet[20 : 20 + 288, :288]
    side, aside = 280, (288 - 280 * 64 // 80) // 2
    scaled = cv2.resize(masks, (side, 224), interpolation=cv2.INTER_NEAREST)
    inner = tile[aside : aside + 224, 4 : 4 + side]
    expected = contours(np.zeros((224, side), np.uint8), scaled)
    for name in COLOURS:
        np.testing.assert_array_equal(drawn(inner, name), drawn(expected, name))
    assert (sheet[20 + 288 + 20 + 144, 288 : 2 * 288] < 10).sum() > 800  # the wide one, black
    with pytest.raises(ValueError, match="at least one slice"):
        gallery.contour_sheet([])
    with pytest.raises(ValueError, match="but their slice"):
        gallery.contour_sheet([OutlinedSlice(GRAY.T.copy(), masks, "")])
