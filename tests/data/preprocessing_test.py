import os
import pathlib
import pickle

import cv2
import numpy as np
import pytest
from scipy import ndimage

from jaxcovid.data import decoding, geometry, preprocessing


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 200, (height, width), dtype=np.uint8)


def smooth(height, width):
    image = ndimage.gaussian_filter(np.random.default_rng(1).random((height, width)), 6)
    return np.uint8(255 * (image - image.min()) / np.ptp(image))


def blob(height, width, y, x):
    """A bright spot on black, its centre at (y, x)."""
    rows, columns = np.mgrid[:height, :width]
    return np.uint8(200 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 18))


def moved(image, seed, *, rotation_deg=15.0, translation_fraction=0.05, fill=128):
    """An image after step 1 with the numbers of a seed."""
    matrix = geometry.random_affine(
        image.shape,
        rng=np.random.default_rng(seed),
        rotation_deg=rotation_deg,
        translation_fraction=translation_fraction,
    )
    return preprocessing.rotate_and_translate(image, matrix, fill=fill)


def test_rotation_and_translation_agree_with_scipy():
    image = smooth(120, 161)
    result = moved(image, 3)

    rng = np.random.default_rng(3)
    angle = np.deg2rad(rng.uniform(-15, 15))
    shift = np.array([rng.uniform(-0.05, 0.05) * 161, rng.uniform(-0.05, 0.05) * 120])[::-1]
    # A point of the result looks up its origin: back by the shift, then rotated back. Rows grow
    # downwards, so that a positive angle turns anticlockwise as seen on the screen.
    back = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = (np.array(image.shape) - 1) / 2
    expected = ndimage.affine_transform(
        image.astype(float), back, centre - back @ (centre + shift), order=1, cval=128
    )
    inside = ndimage.affine_transform(
        np.ones(image.shape), back, centre - back @ (centre + shift), order=1, cval=0
    )
    assert 0.5 < (inside > 0.999).mean() < 1
    np.testing.assert_allclose(result[inside > 0.999], expected[inside > 0.999], atol=3)
    outside = ndimage.binary_erosion(inside == 0, iterations=2, border_value=1)
    assert outside.sum() > 500
    assert (result[outside] == 128).all()


def test_random_shifts_fill_their_range_and_no_more():
    image = blob(100, 200, 49.5, 99.5)
    shifts = []
    for seed in range(200):
        shifted = moved(image, seed, rotation_deg=0, fill=0)
        shifts.append(np.subtract(ndimage.center_of_mass(shifted), (49.5, 99.5)) / (100, 200))
    shifts = np.array(shifts)
    assert (np.abs(shifts) < 0.0505).all()
    assert (shifts.max(axis=0) > 0.045).all()
    assert (shifts.min(axis=0) < -0.045).all()


def test_random_angles_fill_their_range_and_no_more():
    image = blob(201, 201, 100, 170)  # At angle 0 as seen from the centre.
    angles = []
    for seed in range(200):
        turned = moved(image, seed, translation_fraction=0, fill=0)
        y, x = ndimage.center_of_mass(turned)
        angles.append(np.rad2deg(np.arctan2(100 - y, x - 100)))
    assert 14 < max(angles) < 15.1
    assert -15.1 < min(angles) < -14


def test_no_rotation_and_no_translation_change_nothing():
    image = noise(50, 70)
    same = moved(image, 0, rotation_deg=0, translation_fraction=0)
    np.testing.assert_array_equal(same, image)


@pytest.mark.parametrize("image", [noise(90, 70), smooth(64, 64) // 3 + 50], ids=["flat", "dark"])
def test_equalisation_agrees_with_the_cumulative_histogram(image):
    counts = np.bincount(image.ravel(), minlength=256).cumsum()
    first = counts[image.min()]
    table = np.maximum(counts - first, 0) / (image.size - first) * 255
    np.testing.assert_allclose(preprocessing.equalize_histogram(image), table[image], atol=0.51)


def test_shrinking_by_a_whole_factor_is_the_mean_of_blocks():
    image = noise(96, 160)
    expected = image.reshape(32, 3, 32, 5).mean(axis=(1, 3))
    result = preprocessing.resize(image, size=32)
    np.testing.assert_allclose(result, expected, atol=0.51)


def test_shrinking_by_any_factor_is_by_area():
    image = noise(1, 100).repeat(100, axis=0)
    # The integral of a row, taken between the edges of the new pixels.
    edges = np.linspace(0, 100, 33)
    integral = np.interp(edges, np.arange(101), np.concatenate([[0], image[0].cumsum()]))
    expected = np.diff(integral) / (100 / 32)
    np.testing.assert_allclose(preprocessing.resize(image, size=32)[5], expected, atol=1)


def linear(image, height, width):
    """Linear interpolation with half-pixel centres, edges repeated."""
    y = (np.arange(height) + 0.5) * image.shape[0] / height - 0.5
    x = (np.arange(width) + 0.5) * image.shape[1] / width - 0.5
    return ndimage.map_coordinates(
        image.astype(float), np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest"
    )


def test_enlarging_is_linear():
    image = noise(40, 33)
    result = preprocessing.resize(image, size=64)
    np.testing.assert_allclose(result, linear(image, 64, 64), atol=1)


def test_one_side_shrinks_while_the_other_grows():
    image = noise(20, 128)
    blocks = np.rint(image.reshape(20, 64, 2).mean(axis=2))
    result = preprocessing.resize(image, size=64)
    np.testing.assert_allclose(result, linear(blocks, 64, 64), atol=1.5)


@pytest.mark.parametrize("shape", [(100, 50), (50, 100), (1000, 16), (17, 17), (99, 100)])
def test_ratio_is_kept_and_padded_with_fill(shape):
    result = preprocessing.resize(np.full(shape, 255, np.uint8), size=64, keep_ratio=True, fill=9)
    assert result.shape == (64, 64)
    rows, columns = np.nonzero(result == 255)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert set(np.unique(result)) <= {9, 255}
    assert max(height, width) == 64
    assert abs(height / width - shape[0] / shape[1]) < 0.02 * shape[0] / shape[1] * 64 / min(
        height, width
    )
    assert abs(rows.min() - (63 - rows.max())) <= 1  # Centred.
    assert abs(columns.min() - (63 - columns.max())) <= 1


def test_blur_is_the_kernel_1_2_1():
    image = noise(40, 50)
    kernel = np.array([1, 2, 1]) / 4
    expected = image.astype(float)
    for axis in (0, 1):
        expected = ndimage.convolve1d(expected, kernel, axis=axis, mode="mirror")
    np.testing.assert_allclose(preprocessing.blur(image), expected, atol=0.51)


def test_normalisation_per_image_and_with_constants():
    image = noise(40, 50)
    own = preprocessing.normalize(image)
    assert own.dtype == np.float32
    np.testing.assert_allclose(own, (image - image.mean()) / image.std(), atol=1e-5)
    fixed = preprocessing.normalize(image, mean=128.0, std=64.0)
    np.testing.assert_allclose(fixed, (image - 128.0) / 64, atol=1e-6)


def test_a_constant_image_gives_zeros():
    constant = np.full((30, 30), 77, np.uint8)
    assert not preprocessing.normalize(constant).any()
    assert not preprocessing.Preprocessing()(constant).any()


def test_the_five_steps_stand_in_the_order_of_the_paper():
    image, prepare = noise(90, 70), preprocessing.Preprocessing(size=64)
    names = ["rotate_and_translate", "equalize_histogram", "resize", "blur", "normalize"]
    assert list(prepare.steps(image, np.random.default_rng(0))) == names
    assert list(prepare.steps(image)) == names[1:]

    equalized = preprocessing.equalize_histogram(moved(image, 0))
    expected = preprocessing.normalize(preprocessing.blur(preprocessing.resize(equalized, size=64)))
    np.testing.assert_array_equal(prepare(image, np.random.default_rng(0))[..., 0], expected)


def test_a_seed_fixes_the_result():
    image, prepare = smooth(90, 70), preprocessing.Preprocessing(size=64)
    first = prepare(image, np.random.default_rng(5))
    np.testing.assert_array_equal(first, prepare(image, np.random.default_rng(5)))
    assert np.abs(first - prepare(image, np.random.default_rng(6))).mean() > 0.1
    np.testing.assert_array_equal(prepare(image), prepare(image))


@pytest.mark.parametrize("shape", [(16, 16), (17, 1000), (1023, 19), (256, 256)])
@pytest.mark.parametrize("keep_ratio", [False, True])
def test_any_size_becomes_the_input_of_the_network(shape, keep_ratio):
    prepare = preprocessing.Preprocessing(keep_ratio=keep_ratio)
    result = prepare(noise(*shape), np.random.default_rng(0))
    assert result.shape == (256, 256, 1)
    assert result.dtype == np.float32
    assert abs(result.mean()) < 1e-4
    assert abs(result.std() - 1) < 1e-4


def test_the_input_is_left_alone():
    image = noise(90, 70)
    before = image.copy()
    preprocessing.Preprocessing()(image, np.random.default_rng(0))
    np.testing.assert_array_equal(image, before)


def test_it_can_be_pickled():
    prepare = preprocessing.Preprocessing(size=32, mean=1.0, std=2.0)
    assert pickle.loads(pickle.dumps(prepare)) == prepare


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"size": 0}, "size 0"),
        ({"rotation_deg": -1.0}, "rotation_deg -1.0"),
        ({"rotation_deg": 200.0}, "rotation_deg 200.0"),
        ({"translation_fraction": 1.0}, "translation_fraction 1.0"),
        ({"fill": 256}, "fill 256"),
        ({"mean": 1.0}, "mean 1.0 and std None"),
        ({"mean": 1.0, "std": 0.0}, "std 0.0"),
    ],
)
def test_wrong_options_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        preprocessing.Preprocessing(**options)


@pytest.mark.skipif("JAXCOVID_DATA" not in os.environ, reason="JAXCOVID_DATA is not set")
def test_real_images():
    folder = pathlib.Path(os.environ["JAXCOVID_DATA"]) / "COVID-CT" / "Images-processed"
    prepare = preprocessing.Preprocessing()
    for path in sorted(folder.glob("*/*"))[::25]:
        image = decoding.decode_gray(path.read_bytes())
        result = prepare(image)
        assert abs(result.mean()) < 1e-4
        assert abs(result.std() - 1) < 1e-4
        # An independent equalisation and a plain resize by area come out close.
        plain = cv2.resize(preprocessing.equalize_histogram(image), (256, 256), interpolation=3)
        assert np.corrcoef(result.ravel(), plain.ravel())[0, 1] > 0.95
