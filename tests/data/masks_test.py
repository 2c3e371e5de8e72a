"""Masks: decoded, moved with their image through the five steps, and in batches."""

import cv2
import numpy as np
import pytest

from jaxcovid.data import image_cache, pipeline
from jaxcovid.data.device_preprocessing import pack
from jaxcovid.data.image_error import ImageError
from jaxcovid.data.masks import decode_mask, decode_masks
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.data.structures import UNKNOWN
from jaxcovid.runtime.sharding import make_mesh
from jaxcovid.training.batches import DeviceBatches

SHAPE = (60, 80)
SMALL = Preprocessing(size=32, fill=0)


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


def blocks(seed=0):
    """A mask of 5 x 5 px blocks, uint8 0 or 255."""
    small = np.random.default_rng(seed).integers(0, 2, (SHAPE[0] // 5, SHAPE[1] // 5))
    return 255 * np.kron(small, np.ones((5, 5))).astype(np.uint8)


def disc(shape, centre, radius):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(rows - centre[0], columns - centre[1]) < radius


def records(count=6):
    """Images that show their lesion mask; every second has no known lung mask."""
    made = []
    for i in range(count):
        lesion = np.where(disc(SHAPE, (20 + 3 * i, 50 - 4 * i), 12), 255, 0).astype(np.uint8)
        made.append(
            {
                "id": f"r{i}",
                "label": i,
                "image": png(lesion),
                "lung_mask": b"" if i % 2 else png(blocks(i)),
                "lesion_mask": png(lesion),
            }
        )
    return made


def label(record):
    return np.float32([record["label"]])


def train(source, count, *, workers=0, **options):
    loading = pipeline.Loading(preprocessing=SMALL, batch_size=6, masks=True, workers=workers)
    batches = pipeline.train_batches(source, loading, target=label, seed=3, **options)
    return [next(batches) for _ in range(count)]


def test_masks_are_decoded_in_order_and_what_is_not_known_is_marked():
    lesion = blocks()
    record = {"lung_mask": b"", "lesion_mask": png(lesion)}
    masks = decode_masks(record, SHAPE)
    assert masks.dtype == np.uint8
    assert (masks[..., 0] == UNKNOWN).all()
    np.testing.assert_array_equal(masks[..., 1], lesion > 0)
    assert (decode_masks({}, SHAPE) == UNKNOWN).all(), "records without the features"
    empty = decode_masks({"lesion_mask": png(np.zeros(SHAPE, np.uint8))}, SHAPE)
    assert not empty[..., 1].any(), "an empty mask is known"
    assert decode_mask(record, "lungs") is None
    np.testing.assert_array_equal(decode_mask(record, "lesion"), lesion > 0)


@pytest.mark.parametrize(
    ("mask", "message"),
    [(png(np.zeros((30, 40), np.uint8)), "40 x 30 px, its image 80 x 60"), (b"no", "lesion_mask:")],
)
def test_a_mask_that_does_not_fit_is_refused(mask, message):
    with pytest.raises(ImageError, match=message):
        decode_masks({"lesion_mask": mask}, SHAPE)


def test_without_rotation_and_scaling_a_mask_stays_what_it_is():
    prepare = Preprocessing(size=60)
    masks = (blocks()[:, :60, np.newaxis] > 0).astype(np.uint8).repeat(2, axis=2)
    np.testing.assert_array_equal(prepare.place_masks(masks), masks)


@pytest.mark.parametrize("keep_ratio", [False, True])
@pytest.mark.parametrize("shape", [(60, 80), (400, 250), (90, 700)])
def test_masks_follow_their_image(shape, keep_ratio):
    prepare = Preprocessing(size=128, keep_ratio=keep_ratio, fill=0)
    offsets = []
    for seed in range(40):
        place = np.random.default_rng(-seed % 40).uniform(0.4, 0.6, 2)
        inside = disc(shape, place * shape, 0.25 * min(shape))
        image = np.where(inside, 200, 0).astype(np.uint8)
        masks = np.stack([inside, ~inside], axis=-1).astype(np.uint8)
        prepared, placed = prepare.with_masks(image, masks, np.random.default_rng(seed))
        np.testing.assert_array_equal(prepared, prepare(image, np.random.default_rng(seed)))
        bright = prepared[..., 0] > (prepared.min() + prepared.max()) / 2
        marked = placed[..., 0] == 1
        assert (bright & marked).sum() > 0.8 * (bright | marked).sum()
        offsets.append(np.subtract(*(np.mean(np.nonzero(x), axis=1) for x in (bright, marked))))
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.15, "half a pixel is a wrong centre"


def test_outside_of_the_image_masks_are_empty_unless_they_are_unknown():
    prepare = Preprocessing(size=64, keep_ratio=True)
    masks = np.stack([np.ones(SHAPE), np.full(SHAPE, UNKNOWN)], axis=-1).astype(np.uint8)
    placed = prepare.place_masks(masks)
    assert not placed[:8, :, 0].any(), "above a wide image"
    assert placed[8:56, :, 0].all()
    _, moved = prepare.with_masks(np.zeros(SHAPE, np.uint8), masks, np.random.default_rng(0))
    assert 0.5 < moved[8:56, :, 0].mean() < 1
    assert (moved[..., 1] == UNKNOWN).all()


def test_masks_for_the_device_are_those_of_the_host():
    prepare, masks = Preprocessing(size=48), (blocks()[..., np.newaxis] > 0).astype(np.uint8)
    image = blocks(1)
    packed = pack(image, preprocessing=prepare, rng=np.random.default_rng(5), masks=masks)
    _, placed = prepare.with_masks(image, masks, np.random.default_rng(5))
    np.testing.assert_array_equal(packed["masks"], placed)
    assert "masks" not in pack(image, preprocessing=prepare, rng=np.random.default_rng(5))


def test_batches_have_masks_and_the_images_of_batches_without():
    source = records()
    (batch,) = train(source, 1)
    assert batch["masks"].shape == (6, 32, 32, 2)
    assert batch["masks"].dtype == np.uint8
    for row, number in enumerate(batch["target"][:, 0].astype(int)):
        lungs, lesion = batch["masks"][row].transpose(2, 0, 1)
        assert (lungs == UNKNOWN).all() if number % 2 else set(np.unique(lungs)) == {0, 1}
        image = batch["image"][row, ..., 0]
        shown = image > (image.min() + image.max()) / 2
        assert (shown & (lesion == 1)).sum() > 0.75 * (shown | (lesion == 1)).sum()
    loading = pipeline.Loading(preprocessing=SMALL, batch_size=6)
    without = next(pipeline.train_batches(source, loading, target=label, seed=3))
    assert without.keys() == batch.keys() - {"masks"}
    for name, values in without.items():
        np.testing.assert_array_equal(values, batch[name])


def test_masks_do_not_depend_on_where_the_batch_is_made(tmp_path):
    source = records()
    expected = train(source, 2)
    cached = image_cache.cache_images(
        {"train": source}, cache="disk", folder=tmp_path, digest="0" * 64
    )["train"]
    for batches in (
        train(source, 2, workers=2),
        train(source, 2, preprocess_on="device"),
        train(source, 2, bad_records="skip"),
        train(cached, 2),
    ):
        for a, b in zip(batches, expected, strict=True):
            np.testing.assert_array_equal(a["masks"], b["masks"])


@pytest.mark.parametrize("mask", [b"no image", png(np.zeros((61, 80), np.uint8))])
@pytest.mark.parametrize("preprocess_on", ["host", "device"])
def test_a_mask_that_cannot_be_used_names_its_record_or_is_skipped(mask, preprocess_on):
    source = records()
    source[4]["lesion_mask"] = mask
    with pytest.raises(ImageError, match="r4: lesion_mask"):
        train(source, 1, preprocess_on=preprocess_on)
    (batch,) = train(source, 1, preprocess_on=preprocess_on, bad_records="skip")
    assert sorted(batch["target"][:, 0]) == [0, 1, 2, 3, 5, 5]
    assert batch["replaced"].sum() == 1


def test_evaluation_batches_have_masks():
    source = records(5)
    loading = pipeline.Loading(preprocessing=SMALL, batch_size=4, masks=True)
    batches = list(pipeline.eval_batches(source, loading))
    masks = np.concatenate([batch["masks"] for batch in batches])
    assert masks.shape == (8, 32, 32, 2)
    for i, record in enumerate(source):
        np.testing.assert_array_equal(masks[i], SMALL.place_masks(decode_masks(record, SHAPE)))


@pytest.mark.parametrize("unpack", [None, lambda rows: rows["shape"]])
def test_masks_are_placed_on_the_devices(unpack):
    rows = {
        "target": np.zeros((8, 1), np.float32),
        "masks": np.arange(8 * 4 * 4 * 2, dtype=np.uint8).reshape(8, 4, 4, 2),
        "replaced": np.zeros(8, bool),
        **({"shape": np.zeros(2)} if unpack else {"image": np.zeros((8, 4, 4, 1), np.float32)}),
    }
    batch = next(DeviceBatches(iter([dict(rows)]), make_mesh(4), unpack))
    assert batch.keys() == {"image", "target", "masks"}
    np.testing.assert_array_equal(batch["masks"], rows["masks"])
    assert len(batch["masks"].sharding.device_set) == 4
