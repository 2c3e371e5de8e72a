"""Heatmaps inside masks, and the gallery, of a network that is not run."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from jaxcovid.data.identity import Overlap
from jaxcovid.data.labels import Task
from jaxcovid.data.lung_focus import View
from jaxcovid.evaluation import saliency
from jaxcovid.evaluation.ablation_experiments import score_ablations
from jaxcovid.evaluation.saliency import (
    GRAD_CAM,
    SHUFFLED,
    choose_gallery,
    masked_images,
    measure_saliency,
)
from jaxcovid.evaluation.scored import ScoredSplit
from jaxcovid.metrics.predictions import Predictions

N, SIDE = 12, 16
STRIPES = 100  # gray levels of every fourth row


class Network:
    """Looks at the left half, which alone it scores by: by the contrast of its stripes."""

    task = Task("binary", ("COVID-19",))
    thresholds = {"youden": 0.5}  # noqa: RUF012
    has_gradcam = True
    segments = False
    run = SimpleNamespace(volume_slices=0)
    batch_size = 4

    def __init__(self, empty=False):
        self.empty = empty

    def heatmaps(self, images):
        left = np.zeros((len(images), 4, 4), np.float32)
        left[:, :, :2] = not self.empty
        return left

    def with_shuffled_weights(self, seed):
        return Network(empty=seed > 0)

    def prepare(self, images):
        inputs = [cv2.resize(image, (64, 64)).astype(np.float32)[..., None] for image in images]
        return inputs, [View.whole(image.shape) for image in images]

    def probabilities_of_inputs(self, inputs):
        return np.stack(inputs)[:, :, :32, 0].std(axis=1).mean(axis=1)[:, None] / STRIPES

    def score(self, source, *, ablation, workers):
        images = (cv2.imdecode(np.frombuffer(r["image"], np.uint8), 0) for r in source)
        means = [
            ablation(image, record).mean() for image, record in zip(images, source, strict=True)
        ]
        return np.array(means, np.float32)[:, None] / 255


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


def scored(mask="lung_mask", masked=lambda i: i % 2 == 0):
    """Striped images that brighten with their number; the even ones are positive.

    Args:
      mask: the feature that holds the left half.
      masked: which images have it; the others have an empty one.
    """
    left = np.zeros((SIDE, SIDE), np.uint8)
    left[:, : SIDE // 2] = 255
    stripes = np.where(np.arange(SIDE)[:, None] % 4 == 0, STRIPES, 0).repeat(SIDE, axis=1)
    source = [
        {
            "id": f"image {i}",
            "image": png((stripes + 10 * i).astype(np.uint8)),
            mask: png(left) if masked(i) else b"",
        }
        for i in range(N)
    ]
    probability = np.linspace(0, 1, N)
    return ScoredSplit(
        predictor=Network(),
        dataset=None,
        split="test",
        source=source,
        predictions=Predictions(
            ids=[record["id"] for record in source],
            patients=[record["id"] for record in source],
            targets=(np.arange(N) % 2 == 0)[:, None],
            probabilities=probability[:, None],
            outputs=("COVID-19",),
        ),
        uncalibrated=probability,
        groups=(),
        seen=Overlap(0, 0, 0, N),
    )


def measured(split):
    return measure_saliency(split, masked_images(split))


def halves(n):
    """Maps of the left half, of the right half, of both alike, and of the left a little more."""
    right = np.zeros((n, 2, 2))
    right[:, :, 1] = 1
    left = right[:, :, ::-1]
    return {"left": left, "right": right, "flat": np.ones((n, 3, 3)), "tilted": 1 + left / 1000}


@pytest.mark.parametrize(("mask", "name"), [("lung_mask", "lungs"), ("lesion_mask", "lesion")])
def test_heatmaps_beside_shuffled_weights(mask, name):
    found = measured(scored(mask))
    assert (found.n, found.masks, found.area, found.n_deleted) == (N // 2, name, 0.5, N // 2)
    own, shuffled = (found.explanations[name] for name in (GRAD_CAM, SHUFFLED))
    assert own.mass.value > 0.9, "scaled up, a little of the left half reaches over the middle"
    assert shuffled.mass.value == own.mass.value, "empty heatmaps do not count"
    assert (own.empty, shuffled.empty) == (0, 4 * N // 2)
    assert own.pointing.value == 1
    assert own.pointing.low == pytest.approx(0.025 ** (2 / N)), "over patients"
    assert own.deletion.value < found.random_deletion.value
    assert own.gain.value == pytest.approx(found.random_deletion.value - own.deletion.value)
    assert own.gain.low > 0
    assert shuffled.deletion is None


def test_of_lesions_only_the_positive_class_counts():
    assert measured(scored("lesion_mask", masked=lambda i: True)).n == N // 2
    assert measured(scored("lung_mask", masked=lambda i: True)).n == N


def test_five_shuffles_of_an_image_are_of_one_patient(monkeypatch):
    monkeypatch.setattr(Network, "with_shuffled_weights", lambda self, seed: Network())
    found = measured(scored()).explanations
    assert found[SHUFFLED].empty == 0
    assert found[SHUFFLED].pointing == found[GRAD_CAM].pointing


def test_other_maps_are_measured_in_the_same_way():
    split = scored()
    masked = masked_images(split)
    assert list(masked.masks) == list(masked.grays) == list(range(0, N, 2))
    found = measure_saliency(split, masked, halves(len(masked.grays)))
    rows = found.explanations
    assert list(rows) == [GRAD_CAM, "left", "right", "flat", "tilted", SHUFFLED]
    assert [rows[name].pointing.value for name in halves(1)] == [1, 0, 0.5, 1]
    assert rows["flat"].mass.value == 0.5
    assert rows["left"].mass.value == pytest.approx(1 - rows["right"].mass.value)
    assert rows["left"].gain.low > 0 > rows["right"].gain.high
    assert rows["flat"].gain.value == 0, "equally rated pixels go in random order"
    with pytest.raises(ValueError, match="5 maps of left for 6 images"):
        measure_saliency(split, masked, halves(5))


def test_deletion_is_of_images_of_the_positive_class_and_not_of_too_many(monkeypatch):
    found = measured(scored(masked=lambda i: True))
    assert (found.n, found.n_deleted) == (N, N // 2)
    monkeypatch.setattr(saliency, "_DELETED", 4)
    assert measured(scored()).n_deleted == 4
    negative = measured(scored(masked=lambda i: i % 2 == 1))
    assert (negative.n, negative.n_deleted, negative.random_deletion) == (N // 2, 0, None)
    assert negative.explanations[GRAD_CAM].gain is None


def test_without_masks_or_heatmaps_there_is_nothing_to_say():
    assert measured(scored(masked=lambda i: False)) is None
    split = scored()
    split.predictor.has_gradcam = False
    assert measured(split) is None


def test_the_gallery_has_the_clearest_of_each_kind_with_their_masks():
    gallery = choose_gallery(scored())
    assert [each.caption for each in gallery] == [
        "hit, p = 0.91: image 10",
        "hit, p = 0.73: image 8",
        "miss, p = 0.00: image 0",
        "miss, p = 0.18: image 2",
        "false alarm, p = 1.00: image 11",
        "false alarm, p = 0.82: image 9",
        "correct rejection, p = 0.09: image 1",
        "correct rejection, p = 0.27: image 3",
    ]
    assert [each.mask is None for each in gallery] == [False] * 4 + [True] * 4
    assert gallery[0].mask.mean() == 0.5


def test_ablations_are_scored_beside_the_same_images_unaltered():
    rows = {row.ablation: row for row in score_ablations(scored())}
    # Only positive images have a mask: without negatives there is no AUC of `lungs_only`.
    names = ["border_only", "centre_only", "thumbnail", "flipped", "brighter", "darker"]
    assert list(rows) == names
    assert {row.n for row in rows.values()} == {N}
    assert rows["flipped"].auc.value == rows["flipped"].unaltered.value
