import functools
import os
import pathlib

import cv2
import jax
import numpy as np
import pytest
import two_processes
from scipy import ndimage

from jaxcovid.data import device_preprocessing, device_steps, pipeline, preprocessing
from jaxcovid.data.decoding import ImageError, decode_gray
from jaxcovid.runtime import sharding

LARGEST = device_preprocessing.SIDES_PX[-1]


def slice_of(height, width, seed):
    """A smooth picture with noise, flat black and white, and some gray levels that never occur."""
    random = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(random.random((height, width)), 8)
    image = (image - image.min()) / np.ptp(image) * 340 - 40 + random.normal(0, 4, image.shape)
    return np.uint8(np.clip(image, 0, 255)) // 3 * 3


def packed(grays, five):
    """A packed batch; the random numbers of an image are those of its place."""
    rows = [
        device_preprocessing.pack(gray, preprocessing=five, rng=np.random.default_rng(i))
        for i, gray in enumerate(grays)
    ]
    return device_preprocessing.pack_batch(rows)


def both(grays, options, devices=1):
    """The host's result and the device's, [b, size, size, 1] each, for the same random numbers."""
    five = preprocessing.Preprocessing(**options)
    on_host = np.stack([five(g, np.random.default_rng(i)) for i, g in enumerate(grays)])
    unpack = device_preprocessing.Unpacker(sharding.make_mesh(devices), preprocessing=five)
    return on_host, unpack(packed(grays, five))


def assert_close(grays, options):
    """The tolerance that the module promises, of gray levels and of the network's input."""
    on_host, on_device = both(grays, {**options, "mean": 0.0, "std": 1.0})
    assert on_device.dtype == np.float32
    assert on_device.shape == on_host.shape
    off = np.abs(on_host - np.asarray(on_device))
    assert (off > 0).mean() <= 5e-3
    assert (off > 1).mean() <= 1e-4
    on_host, on_device = both(grays, options)
    assert (np.abs(np.asarray(on_device) - on_host) > 0.05).mean() <= 1e-4


@pytest.mark.parametrize("keep_ratio", [False, True])
@pytest.mark.parametrize("size", [64, 256])
def test_the_device_equals_the_host(size, keep_ratio):
    options = {"size": size, "keep_ratio": keep_ratio, "fill": 128}
    shrinking = [(320, 320), (256, 300), (2 * size, 2 * size), (511, 513), (1024, 700)]
    assert_close([slice_of(*shape, 0) for shape in shrinking], options)
    growing = [(size, size), (320, 201), (70, 90), (320, 30), (16, 17), (16, 16)]
    assert_close([slice_of(*shape, 1) for shape in growing], options)


@pytest.mark.parametrize(("size", "keep_ratio"), [(64, False), (256, True)])
def test_what_is_exported_equals_opencv_bit_for_bit(size, keep_ratio):
    """Sums that end near a half, too, as long as no side shrinks to less than a quarter."""
    five = preprocessing.Preprocessing(size=size, keep_ratio=keep_ratio, mean=0.0, std=1.0)
    exported = jax.jit(functools.partial(device_steps.equalize_to_blur, preprocessing=five))
    drawn = np.random.default_rng(0).integers(size, 4 * size, (3, 2))
    factors = [(2 * size, 2 * size), (3 * size, 2 * size), (size, 3 * size)]
    for shape in [*factors, (70, 90), *map(tuple, drawn)]:
        gray = slice_of(*shape, 3)
        on_device = exported(gray[None])
        np.testing.assert_array_equal(on_device[0], five(gray)[..., 0], err_msg=str(shape))


@pytest.mark.parametrize("left_out", ["equalize", "blur"])
def test_steps_that_are_left_out(left_out):
    options = {"size": 64, left_out: False}
    grays = [slice_of(200, 180, 4), slice_of(40, 90, 5)]
    assert_close(grays, options)
    steps = preprocessing.Preprocessing(**options).steps(grays[0])
    assert {"equalize": "equalize_histogram", "blur": "blur"}[left_out] not in steps
    pixels = np.stack([slice_of(90, 200, seed) for seed in range(3)])
    five = preprocessing.Preprocessing(**options, mean=0.0, std=1.0)
    exported = device_steps.equalize_to_blur(pixels, preprocessing=five)
    on_host = np.stack([five(gray) for gray in pixels])[..., 0]
    assert (np.abs(np.asarray(exported) - on_host) > 1).mean() <= 1e-4


@pytest.mark.parametrize("shape", [(3000, 4096), (4096, 2000), (16, 4096), (LARGEST, 90)])
def test_large_images(shape):
    assert_close([slice_of(*shape, 2)], {"size": 256})


def test_constant_images_and_no_rotation():
    options = {"size": 150, "rotation_deg": 0.0, "translation_fraction": 0.0, "fill": 0}
    for level in (7, 253):
        on_host, on_device = both([np.full((80, 60), level, np.uint8)], options)
        np.testing.assert_array_equal(on_device, 0)
        np.testing.assert_array_equal(on_host, 0)
    on_host, on_device = both([slice_of(90, 100, 0), slice_of(300, 300, 0)], options)
    np.testing.assert_allclose(on_device, on_host, atol=1e-5)


def test_an_image_larger_than_every_canvas_is_refused():
    five = preprocessing.Preprocessing()
    with pytest.raises(ImageError, match=rf"100 x {LARGEST + 1} px.*{LARGEST}.*preprocess_on=host"):
        device_preprocessing.pack(
            np.zeros((LARGEST + 1, 100), np.uint8), preprocessing=five, rng=np.random.default_rng(0)
        )


def shapes_in_turn(count):
    """Images of three canvases, more of one than are worked on at a time."""
    return [slice_of(*((90, 100), (600, 700), (200, 300))[i % 3], i) for i in range(count)]


def test_rows_keep_their_order_and_lie_where_those_of_the_host_do():
    grays, five = shapes_in_turn(24), preprocessing.Preprocessing(size=32)
    assert device_steps.PIXELS_AT_ONCE // 768**2 < 8
    on_host, on_device = both(grays, {"size": 32}, devices=4)
    assert (np.abs(np.asarray(on_device) - on_host) > 0.05).mean() <= 1e-3
    placed = sharding.place_batch({"image": on_host}, sharding.make_mesh(4))["image"]
    assert on_device.sharding == placed.sharding
    for mine, theirs in zip(on_device.addressable_shards, placed.addressable_shards, strict=True):
        assert (mine.index, mine.device) == (theirs.index, theirs.device)
    one = device_preprocessing.Unpacker(sharding.make_mesh(1), preprocessing=five)
    np.testing.assert_allclose(on_device, one(packed(grays, five)), atol=1e-5)


def unpack_in_this_process():
    """Each of two processes has rows of other sizes, so that they compile other programs."""
    five = preprocessing.Preprocessing(size=32)
    grays = [slice_of(*shape, 0) for shape in ((90, 100), (600, 700), (90, 100), (300, 300))]
    mine = slice(2 * jax.process_index(), 2 * jax.process_index() + 2)
    unpack = device_preprocessing.Unpacker(sharding.make_mesh(), preprocessing=five)
    batch = packed(grays, five)
    starts = np.concatenate([[0], np.cumsum(batch["shape"].prod(axis=1))])
    own = {name: x[mine] for name, x in batch.items() if name != "pixels"}
    own["pixels"] = batch["pixels"][starts[mine.start] : starts[mine.stop]]
    images = unpack(own)
    expected = np.stack([five(g, np.random.default_rng(i)) for i, g in enumerate(grays)])
    assert images.shape == expected.shape
    for shard in images.addressable_shards:
        assert (np.abs(shard.data - expected[shard.index]) > 0.05).mean() <= 1e-3


def test_processes_need_not_agree_on_sizes():
    for status, log in two_processes.call(__name__, "unpack_in_this_process", devices=1):
        assert status == 0, log


@pytest.mark.parametrize("side", [256, 1024, LARGEST])
def test_temporaries_stay_small_whatever_the_size(side):
    n = max(1, device_steps.PIXELS_AT_ONCE // side**2)
    shape, five = jax.ShapeDtypeStruct((n, 2), np.int32), preprocessing.Preprocessing()
    steps = jax.jit(jax.vmap(functools.partial(device_steps.four_steps, preprocessing=five)))
    pixels = jax.ShapeDtypeStruct((n, side, side), np.uint8)
    inverse = jax.ShapeDtypeStruct((n, 2, 3), np.float32)
    compiled = steps.lower(pixels, shape, shape, inverse).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**28


def test_batches_hold_the_same_images_for_the_device():
    five = preprocessing.Preprocessing(size=64)
    records = [
        {"id": str(i), "label": i, "image": cv2.imencode(".png", gray)[1].tobytes()}
        for i, gray in enumerate(shapes_in_turn(6))
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
    np.testing.assert_array_equal(device["target"], host["target"])
    assert device["pixels"].shape == (sum(gray.size for gray in shapes_in_turn(6)),)
    unpack = device_preprocessing.Unpacker(sharding.make_mesh(1), preprocessing=five)
    on_device = np.asarray(unpack(device))
    assert (np.abs(on_device - host["image"]) > 0.05).mean() <= 1e-3


@pytest.mark.skipif("JAXCOVID_DATA" not in os.environ, reason="JAXCOVID_DATA is not set")
@pytest.mark.parametrize(
    ("folder", "every"),
    [
        ("COVID-CT/Images-processed", 25),
        ("SARS-CoV-2-CT-scan", 40),
        ("chest_xray", 20),
        ("covid-chestxray-dataset/images", 25),
        ("ChestX-ray14", 40),
    ],
)
@pytest.mark.parametrize("keep_ratio", [False, True])
def test_real_images(folder, every, keep_ratio):
    folder = pathlib.Path(os.environ["JAXCOVID_DATA"]) / folder
    paths = sorted(p for p in folder.rglob("*") if p.suffix in (".png", ".jpg", ".jpeg"))
    grays = [decode_gray(path.read_bytes()) for path in paths[::every]]
    assert len(grays) > 4
    assert_close(grays, {"keep_ratio": keep_ratio})
