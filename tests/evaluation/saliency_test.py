"""Heatmaps inside masks, and the gallery, of a network that is not run."""

import cv2
import numpy as np
import pytest

from jaxcovid.data.identity import Overlap
from jaxcovid.evaluation.ablation_experiments import score_ablations
from jaxcovid.evaluation.saliency import choose_gallery, measure_saliency
from jaxcovid.evaluation.scored import ScoredSplit
from jaxcovid.metrics.predictions import Predictions

N, SIDE = 12, 16


class Network:
    """Looks at the left half; scores by the mean gray level."""

    thresholds = {"youden": 0.5}  # noqa: RUF012
    has_gradcam = True

    def __init__(self, empty=False):
        self.empty = empty

    def heatmaps(self, images):
        left = np.zeros((len(images), 4, 4), np.float32)
        left[:, :, :2] = not self.empty
        return left

    def with_shuffled_weights(self, seed):
        return Network(empty=seed > 0)

    def score(self, source, *, ablation, workers):
        images = (cv2.imdecode(np.frombuffer(r["image"], np.uint8), 0) for r in source)
        means = [
            ablation(image, record).mean() for image, record in zip(images, source, strict=True)
        ]
        return np.array(means, np.float32)[:, None] / 255


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


def scored(mask="lung_mask"):
    """Images whose gray level is their number; the even ones are positive and have a mask."""
    left = np.zeros((SIDE, SIDE), np.uint8)
    left[:, : SIDE // 2] = 255
    source = [
        {
            "id": f"image {i}",
            "image": png(np.full((SIDE, SIDE), 10 * i, np.uint8)),
            mask: b"" if i % 2 else png(left),
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


@pytest.mark.parametrize(("mask", "name"), [("lung_mask", "lungs"), ("lesion_mask", "lesion")])
def test_the_share_of_heatmaps_inside_masks(mask, name):
    found = measure_saliency(scored(mask))
    assert (found.n, found.masks, found.area, found.empty) == (N // 2, name, 0.5, 0)
    assert found.mass > 0.9, "scaled up, a little of the left half reaches over the middle"
    assert found.randomised == found.mass, "empty heatmaps do not count"


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
