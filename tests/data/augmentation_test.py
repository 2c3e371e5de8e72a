"""What training changes at random beyond the paper's steps."""

import cv2
import jax
import numpy as np
import pytest
from scipy import ndimage

from jaxcovid.data import device_preprocessing
from jaxcovid.data.augmentation import Augmentation
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.runtime import sharding

STRONG = Augmentation(
    scale=(0.7, 1.4),
    stretch=1.3,
    flip=0.5,
    window=0.3,
    gamma=2.0,
    noise=10.0,
    blur_px=1.0,
    jpeg_quality=20,
    border=0.1,
)
STILL = {"rotation_deg": 0.0, "translation_fraction": 0.0}


def picture(height=200, width=240, seed=0):
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), 6)
    return np.uint8(255 * (smooth - smooth.min()) / np.ptp(smooth))


def altered(image, seed=0, **options):
    rng = np.random.default_rng(seed)
    return Augmentation(**options).alter(image, rng, size=256, fill=7)


def test_without_options_nothing_is_drawn_and_nothing_changes():
    image, rng = picture(), np.random.default_rng(0)
    none = Augmentation()
    np.testing.assert_array_equal(none.affine(image.shape, rng), np.eye(3))
    assert none.alter(image, rng, size=64, fill=0) is image
    assert none.levels(rng) is None
    assert rng.random() == np.random.default_rng(0).random()


def test_scales_and_flips_about_the_centre():
    shape = (100, 60)
    matrices = [
        Augmentation(scale=(0.5, 2.0), stretch=1.5, flip=0.5).affine(
            shape, np.random.default_rng(seed)
        )
        for seed in range(400)
    ]
    x, y = np.array([(matrix[0, 0], matrix[1, 1]) for matrix in matrices]).T
    logarithm = np.log(np.abs(x * y)) / 2
    assert logarithm.min() >= np.log(0.5)
    assert logarithm.max() <= np.log(2)
    assert np.std(logarithm) == pytest.approx(np.log(4) / np.sqrt(12), rel=0.1)
    stretch = np.log(np.abs(x / y))
    assert np.abs(stretch).max() <= np.log(1.5)
    assert np.std(stretch) == pytest.approx(2 * np.log(1.5) / np.sqrt(12), rel=0.1)
    assert 0.4 < (x < 0).mean() < 0.6
    for matrix in matrices[:10]:
        np.testing.assert_allclose(matrix @ (29.5, 49.5, 1), (29.5, 49.5, 1))


def test_window_saturates_what_leaves_it():
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    saturated = []
    for seed in range(100):
        row = altered(ramp, seed, window=0.5)[0].astype(int)
        assert (np.diff(row) >= 0).all()
        saturated.append(((row == 0) | (row == 255)).mean())
    assert max(saturated) > 0.3
    assert min(saturated) < 0.05


def test_noise_of_large_images_is_stronger_so_that_it_survives_shrinking():
    deviations = []
    for side in (256, 1024):
        flat = np.full((side, side), 128, np.uint8)
        noisy = altered(flat, noise=12.0)
        small = cv2.resize(noisy, (256, 256), interpolation=cv2.INTER_AREA)
        deviations.append(small.astype(float).std())
    assert deviations[0] == pytest.approx(deviations[1], rel=0.05)
    assert deviations[0] <= 12


def test_blur_jpeg_and_border():
    image = picture()
    noise = np.uint8(np.random.default_rng(0).integers(0, 256, (200, 200)))
    blurred = altered(noise, 1, blur_px=2.0)
    assert cv2.Laplacian(blurred, cv2.CV_64F).std() < cv2.Laplacian(noise, cv2.CV_64F).std() / 2
    saved = altered(noise, 0, jpeg_quality=10).astype(int)
    assert 0 < np.abs(saved - noise).mean() < 60
    framed = altered(image, 3, border=0.2)
    filled = framed == 7
    rows, columns = np.flatnonzero(~filled.all(1)), np.flatnonzero(~filled.all(0))
    inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    np.testing.assert_array_equal(framed[inside], image[inside])
    assert rows[0] <= 40
    assert columns[0] <= 48
    assert 0 < filled.mean() < 0.64


def test_gamma_is_between_its_inverse_and_itself():
    middles = [Augmentation(gamma=2.0).levels(np.random.default_rng(i))[128] for i in range(200)]
    assert 255 * (128 / 255) ** 2 - 1 <= min(middles) < 75
    assert 170 < max(middles) <= 255 * (128 / 255) ** 0.5 + 1


def test_masks_move_with_their_image():
    """A disc, drawn as image and as mask, is one disc after all that is random."""
    rows, columns = np.mgrid[:200, :240]
    disc = ((rows - 90) ** 2 + (columns - 130) ** 2 < 50**2).astype(np.uint8)
    moving = Augmentation(scale=(0.7, 1.4), stretch=1.3, flip=0.5)
    five = Preprocessing(size=128, fill=0, augmentation=moving)
    areas = []
    for seed in range(20):
        image, masks = five.with_masks(
            disc * 255, np.dstack([disc, disc]), np.random.default_rng(seed)
        )
        bright = image[..., 0] > image.mean()
        assert (bright != (masks[..., 0] == 1)).mean() < 0.02
        areas.append(bright.mean())
    assert max(areas) > 1.5 * min(areas)


@pytest.mark.parametrize("seed", range(4))
def test_the_device_equals_the_host(seed):
    five = Preprocessing(size=96, augmentation=STRONG, mean=0.0, std=1.0)
    image = picture(seed=seed)
    packed = device_preprocessing.pack(image, preprocessing=five, rng=np.random.default_rng(seed))
    unpack = device_preprocessing.Unpacker(sharding.make_mesh(1), preprocessing=five)
    on_device = np.asarray(unpack(device_preprocessing.pack_batch([packed])))[0]
    on_host = five(image, np.random.default_rng(seed))
    # Where gamma spreads the gray levels, one that is rounded the other way is two or three off.
    assert (np.abs(on_device - on_host) > 3).mean() <= 1e-3
    assert on_host.std() > 10


def test_rows_of_several_devices_keep_their_levels():
    five = Preprocessing(size=64, augmentation=Augmentation(gamma=3.0), mean=0.0, std=1.0, **STILL)
    images = [picture(seed=i) for i in range(4)]
    rows = [
        device_preprocessing.pack(image, preprocessing=five, rng=np.random.default_rng(i))
        for i, image in enumerate(images)
    ]
    devices = min(2, len(jax.devices()))
    unpack = device_preprocessing.Unpacker(sharding.make_mesh(devices), preprocessing=five)
    made = np.asarray(unpack(device_preprocessing.pack_batch(rows)))
    for i, image in enumerate(images):
        expected = five(image, np.random.default_rng(i))
        assert (np.abs(made[i] - expected) > 3).mean() <= 1e-3


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("scale", (0.0, 1.0)),
        ("scale", (1.2, 1.1)),
        ("stretch", 0.9),
        ("gamma", 0.5),
        ("flip", 1.5),
        ("window", 1.0),
        ("border", 0.5),
        ("noise", -1.0),
        ("blur_px", float("nan")),
        ("jpeg_quality", 0),
    ],
)
def test_options_out_of_range_are_named(option, value):
    with pytest.raises(ValueError, match=f"augmentation.{option} is"):
        Augmentation(**{option: value})
