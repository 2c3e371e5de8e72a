import os
import pathlib

import cv2
import numpy as np
import pytest
from scipy import ndimage

from jaxcovid.data import device_preprocessing, pipeline, preprocessing
from jaxcovid.data.decoding import ImageError, decode_gray
from jaxcovid.runtime import sharding

SIDE = device_preprocessing.SIDE_PX


def slice_of(height, width, seed):
    """A smooth picture with noise, flat black and white, and some gray levels that never occur."""
    random = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(random.random((height, width)), 8)
    image = (image - image.min()) / np.ptp(image) * 340 - 40 + random.normal(0, 4, image.shape)
    return np.uint8(np.clip(image, 0, 255)) // 3 * 3


def both(grays, options):
    """The host's result and the device's, [b, size, size, 1] each, for the same random numbers."""
    five = preprocessing.Preprocessing(**options)
    on_host = np.stack([five(g, np.random.default_rng(i)) for i, g in enumerate(grays)])
    packed = [
        device_preprocessing.pack(g, preprocessing=five, rng=np.random.default_rng(i))
        for i, g in enumerate(grays)
    ]
    mesh = sharding.make_mesh(1)
    batch = {name: np.stack([one[name] for one in packed]) for name in packed[0]}
    unpack = device_preprocessing.jit_unpack(mesh, preprocessing=five)
    return on_host, np.asarray(unpack(sharding.place_batch(batch, mesh)))


def assert_close(grays, options, off_by_one):
    """At most that share of the pixels is off by a gray level, and at most 1 in 10,000 by more."""
    on_host, on_device = both(grays, {**options, "mean": 0.0, "std": 1.0})
    assert on_device.dtype == np.float32
    assert on_device.shape == on_host.shape
    off = np.abs(on_host - on_device)
    assert (off > 0).mean() <= off_by_one
    assert (off > 1).mean() <= 1e-4
    on_host, on_device = both(grays, options)
    assert (np.abs(on_device - on_host) > 0.05).mean() <= 1e-4


@pytest.mark.parametrize("keep_ratio", [False, True])
@pytest.mark.parametrize("size", [64, 256])
def test_the_device_equals_the_host(size, keep_ratio):
    options = {"size": size, "keep_ratio": keep_ratio, "fill": 128}
    shrinking = [(SIDE, SIDE), (SIDE, 256), (256, 300), (256, 256)]
    assert_close([slice_of(*shape, 0) for shape in shrinking], options, off_by_one=5e-3)
    growing = [(SIDE, 201), (240, SIDE), (70, 90), (SIDE, 30), (16, 17)]
    assert_close([slice_of(*shape, 1) for shape in growing], options, off_by_one=0.15)


def test_a_constant_image_and_no_rotation():
    options = {"size": 64, "rotation_deg": 0.0, "translation_fraction": 0.0, "fill": 0}
    on_host, on_device = both([np.full((80, 60), 7, np.uint8)], options)
    np.testing.assert_array_equal(on_device, 0)
    np.testing.assert_array_equal(on_host, 0)
    assert_close([slice_of(90, 100, 0)], options, off_by_one=5e-3)


def test_an_image_larger_than_its_room_is_refused():
    five = preprocessing.Preprocessing()
    with pytest.raises(ImageError, match=r"100 x 321 px.*at most 320.*gray320.*preprocess_on=host"):
        device_preprocessing.pack(
            np.zeros((321, 100), np.uint8), preprocessing=five, rng=np.random.default_rng(0)
        )


def test_batches_hold_the_same_images_for_the_device():
    five = preprocessing.Preprocessing(size=64)
    records = [
        {"id": str(i), "label": i, "image": cv2.imencode(".png", slice_of(90, 100, i))[1].tobytes()}
        for i in range(6)
    ]
    host, device = (
        next(
            pipeline.train_batches(
                records,
                pipeline.Loading(preprocessing=five, batch_size=6),
                target=lambda record: np.float32([record["label"]]),
                seed=0,
                preprocess_on=where,
            )
        )
        for where in pipeline.PREPROCESS_ON
    )
    np.testing.assert_array_equal(device.pop("target"), host["target"])
    mesh = sharding.make_mesh(1)
    unpack = device_preprocessing.jit_unpack(mesh, preprocessing=five)
    on_device = np.asarray(unpack(sharding.place_batch(dict(device), mesh)))
    assert (np.abs(on_device - host["image"]) > 0.05).mean() <= 1e-3


@pytest.mark.skipif("JAXCOVID_DATA" not in os.environ, reason="JAXCOVID_DATA is not set")
def test_real_slices():
    folder = pathlib.Path(os.environ["JAXCOVID_DATA"]) / "COVID-CT" / "Images-processed"
    paths = sorted(folder.rglob("*.png"))[::20]
    grays = []
    for gray in (decode_gray(path.read_bytes()) for path in paths):
        scale = SIDE / max(gray.shape)
        size = [round(scale * side) for side in gray.shape[::-1]]
        grays.append(cv2.resize(gray, size, interpolation=cv2.INTER_AREA))
    assert_close(grays, {}, off_by_one=0.15)
