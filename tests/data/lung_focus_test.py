"""What is shown of an image whose lungs are marked, and where what is said of it belongs."""

import pickle

import cv2
import numpy as np
import pytest

from jaxcovid.data import image_cache, lung_focus, pipeline
from jaxcovid.data.ablations import Ablation
from jaxcovid.data.device_preprocessing import pack
from jaxcovid.data.lung_focus import FocusedSource, LungFocus, View
from jaxcovid.data.preprocessing import Preprocessing

SIZE = 64  # of the marking network's input
MARKED = Preprocessing(size=SIZE)
SHOWN = Preprocessing(size=32)


def bits_of(*rectangles, size=SIZE):
    """Marks of rectangles (top, bottom, left, right)."""
    mask = np.zeros((size, size), bool)
    for top, bottom, left, right in rectangles:
        mask[top:bottom, left:right] = True
    return np.packbits(mask)


LUNGS = bits_of((16, 48, 8, 24), (16, 48, 40, 56))  # a box of 32 x 48


def focus(use, **options):
    return LungFocus(use, 128, Preprocessing(size=SIZE, **options))


def gray_of(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_a_crop_is_the_bounding_box_with_its_margin():
    view = focus("crop").view((128, 256), LUNGS)  # twice and four times the marks
    # 64 x 192 px from (32, 32) on, and 5 % of them on each side: 3 and 10 px.
    assert view.box == (slice(29, 99), slice(22, 234))
    gray = gray_of((128, 256))
    np.testing.assert_array_equal(view(gray), gray[29:99, 22:234])
    at_the_edge = focus("crop").view((64, 64), bits_of((0, 64, 0, 30)))
    assert at_the_edge.box == (slice(0, 64), slice(0, 32))


def test_marks_on_a_padded_input_are_those_of_the_image_in_it():
    padded = bits_of((24, 40, 0, 64))  # the middle half of an image that fills rows 16 to 48
    view = focus("crop", keep_ratio=True).view((100, 200), padded)
    rows, columns = view.box
    assert columns == slice(0, 200)
    assert (rows.start, rows.stop) == pytest.approx((25 - 2, 75 + 2), abs=2)


def test_a_mask_keeps_the_hull_of_each_lung_and_a_margin():
    hollow = np.unpackbits(LUNGS).reshape(SIZE, SIZE)
    hollow[24:40, 20:24] = 0  # consolidated lung at the inner border
    hollow[28:32, 44:50] = 0  # and within
    gray = gray_of((64, 64)).clip(0, 100)
    shown = focus("mask").view((64, 64), np.packbits(hollow))(gray)
    assert shown.shape == gray.shape
    np.testing.assert_array_equal(shown[16:48, 8:24], gray[16:48, 8:24])
    np.testing.assert_array_equal(shown[16:48, 40:56], gray[16:48, 40:56])
    margin = 2  # round(.03 * 64)
    np.testing.assert_array_equal(shown[20:40, 6:26], gray[20:40, 6:26])
    assert (shown[:, 26:38] == 128).all()
    assert (shown[: 16 - margin] == 128).all()
    both = focus("crop_and_mask").view((64, 64), LUNGS)
    assert both.box == focus("crop").view((64, 64), LUNGS).box
    np.testing.assert_array_equal(both(gray), focus("mask").view((64, 64), LUNGS)(gray)[both.box])


@pytest.mark.parametrize("use", lung_focus.USES)
@pytest.mark.parametrize(
    "marks", [bits_of(), bits_of((0, 64, 0, 64)), bits_of((0, 10, 0, 12)), bits_of((0, 1, 0, 64))]
)
def test_an_image_without_plausible_lungs_stays_as_it_is(use, marks):
    clean = focus(use).clean(marks)
    assert not clean.any()
    view, gray = focus(use).view((90, 70), clean), gray_of((90, 70))
    assert not view.has_lungs
    np.testing.assert_array_equal(view(gray), gray)


def test_specks_are_no_lungs():
    with_specks = np.unpackbits(LUNGS).reshape(SIZE, SIZE)
    with_specks[2:6, 2:7] = with_specks[60, 60] = 1  # 20 pixels, a little below half a per cent
    np.testing.assert_array_equal(focus("crop").clean(np.packbits(with_specks)), LUNGS)
    with_specks[2:6, 2:8] = 1
    assert (focus("crop").clean(np.packbits(with_specks)) != LUNGS).any()


def test_an_unknown_use_is_refused():
    with pytest.raises(ValueError, match=r"lungs\.use is 'zoom'; use one of crop, mask"):
        focus("zoom")


def test_what_a_network_says_goes_back_to_where_it_was_shown():
    view = View((80, 120), (slice(20, 60), slice(30, 110)))
    network = Preprocessing(size=16, keep_ratio=True)  # 80 x 40 px become the rows 4 to 12
    said = np.zeros((16, 16, 1), np.float32)
    said[4:8, 8:] = 1  # the upper right quarter
    image = view.restore(said, network)[..., 0] > 0.5
    expected = np.zeros((80, 120), bool)
    expected[20:40, 70:110] = True
    assert (image != expected).mean() < 0.01
    heatmap = np.zeros((4, 4), np.float32)
    heatmap[1, 2:] = 1
    restored = view.restore_heatmap(heatmap, network)
    assert restored.shape == (16, 16)
    assert 0 <= restored.min() <= restored.max() <= 1
    large = cv2.resize(restored, (120, 80))
    inside = cv2.dilate(expected.astype(np.uint8), np.ones((15, 15))) > 0
    assert large[inside].sum() > 0.9 * large.sum() > 0
    np.testing.assert_allclose(view.cut(expected), expected[view.box])


def records(count, masks=False):
    def png(array):
        return cv2.imencode(".png", array)[1].tobytes()

    made = [
        {"id": f"r{i}", "image": png(gray_of((50 + i, 70), i)), "patient": "", "label": 0}
        for i in range(count)
    ]
    for record in made if masks else ():
        gray = cv2.imdecode(np.frombuffer(record["image"], np.uint8), 0)
        record |= {"lung_mask": png(np.uint8(gray > 128)), "lesion_mask": b""}
    return made


def target(record):
    return np.zeros(1, np.float32)


def focused(count, use="crop", **options):
    return FocusedSource(records(count, **options), focus(use), np.stack([LUNGS] * count))


def loading(**options):
    return pipeline.Loading(preprocessing=SHOWN, batch_size=4, **options)


def gray(record):
    return cv2.imdecode(np.frombuffer(record["image"], np.uint8), 0)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.parametrize("use", lung_focus.USES)
def test_batches_hold_what_is_shown(use, workers):
    source = focused(4, use)
    (batch,) = pipeline.eval_batches(source, loading(workers=workers))
    for image, record in zip(batch["image"], source.source, strict=True):
        view = source.focus.view(gray(record).shape, LUNGS)
        np.testing.assert_array_equal(image, SHOWN(view(gray(record))))


def test_a_film_with_a_projection_is_shown_whole():
    film = {**records(1)[0], "view": "PA"}
    (batch,) = pipeline.eval_batches([film] * 4, loading())
    np.testing.assert_array_equal(batch["image"][0], SHOWN(gray(film)))
    source = FocusedSource([film], focus("crop"), LUNGS[np.newaxis])
    assert source[0]["view"] == "PA"


def test_an_ablation_comes_first():
    source, ablation = focused(4), Ablation("border_only")
    (batch,) = pipeline.eval_batches(source, loading(ablation=ablation))
    first = source.source[0]
    view = source.focus.view(gray(first).shape, LUNGS)
    np.testing.assert_array_equal(batch["image"][0], SHOWN(view(ablation(gray(first), first))))


def test_masks_of_records_are_cut_with_their_image():
    source = focused(4, masks=True)
    (batch,) = pipeline.eval_batches(source, loading(masks=True))
    first = gray(source.source[0])
    box = source.focus.view(first.shape, LUNGS).box
    expected = SHOWN.place_masks(np.ascontiguousarray(np.uint8(first > 128)[box])[..., None])
    np.testing.assert_array_equal(batch["masks"][0, ..., 0], expected.reshape(32, 32))


def test_training_on_the_host_and_on_the_device_begins_with_the_same_crop():
    source = focused(4)
    options = {"target": target, "seed": 3}
    on_host = next(pipeline.train_batches(source, loading(), **options))
    on_device = next(pipeline.train_batches(source, loading(), preprocess_on="device", **options))
    views = [source.focus.view(gray(record).shape, LUNGS) for record in source.source]
    shapes = {view(gray(r)).shape for view, r in zip(views, source.source, strict=True)}
    assert {tuple(shape) for shape in on_device["shape"].tolist()} == shapes
    assert on_host["image"].shape == (4, 32, 32, 1)
    rng = np.random.default_rng(0)
    packed = pack(views[0](gray(source.source[0])), preprocessing=SHOWN, rng=rng)
    rows = np.split(on_device["pixels"], np.cumsum(on_device["shape"].prod(axis=1))[:-1])
    assert any(np.array_equal(packed["pixels"], row) for row in rows)


def test_decoded_images_are_cropped_too_and_workers_can_open_the_source(tmp_path):
    plain = focused(4)
    cached = image_cache.cache_images(
        {"train": plain.source}, cache="disk", folder=tmp_path, digest="d"
    )["train"]
    source = pickle.loads(pickle.dumps(FocusedSource(cached, plain.focus, plain.bits)))
    assert "gray" in source[0]
    (batch,), (expected,) = (pipeline.eval_batches(each, loading()) for each in (source, plain))
    np.testing.assert_array_equal(batch["image"], expected["image"])


def test_images_without_lungs_are_counted():
    source = focused(3)
    source.bits[1] = 0
    assert source.without_lungs == 1
