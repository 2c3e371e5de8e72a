"""Where a network looks: how much of its heatmaps lies inside the masks, and images to see it."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from jaxcovid.data.ablations import mass_inside
from jaxcovid.evaluation.result import Explanation, Saliency
from jaxcovid.evaluation.scored import ScoredSplit

_SHUFFLES = 5  # of weights, to compare heatmaps with
_SHOWN = 2  # images of a kind in the gallery


def measure_saliency(scored: ScoredSplit) -> Saliency | None:
    """How much of the heatmaps lies inside the masks.

    Over the images of the positive class with a mask of the lesion, or, if the data set has none,
    over all images with one of the lungs; beside the same network with its weights shuffled, which
    looks nowhere (Adebayo et al. 2018, arXiv:1810.03292). None without such images or heatmaps.
    """
    predictor, structure = scored.predictor, _structure(scored)
    if not predictor.has_gradcam:
        return None
    everything: Iterable[int] = range(len(scored.source))
    diseased = scored.predictions.positive.nonzero()[0]
    masks = scored.masks(diseased if structure == "lesion" else everything, structure)
    if not masks:
        return None
    images = scored.images(masks)
    inside = _shares_inside(predictor.heatmaps(images), masks.values())
    # Many heatmaps of a network with shuffled weights are empty: several shuffles.
    shuffled: list[float] = []
    for seed in range(_SHUFFLES):
        heatmaps = predictor.with_shuffled_weights(seed).heatmaps(images)
        shuffled += _shares_inside(heatmaps, masks.values())
    return Saliency(
        n=len(masks),
        masks=structure,
        area=float(np.mean([mask.mean() for mask in masks.values()])),
        mass=_mean(inside),
        empty=int(np.isnan(inside).sum()),
        randomised=_mean(shuffled),
    )


def _structure(scored: ScoredSplit) -> str:
    """What the masks that heatmaps are compared with are of."""
    return "lesion" if scored.has_lesion_masks else "lungs"


def _shares_inside(heatmaps: np.ndarray, masks: Iterable[np.ndarray]) -> list[float]:
    return [mass_inside(heatmap, mask) for heatmap, mask in zip(heatmaps, masks, strict=True)]


def _mean(shares: Sequence[float]) -> float:
    """The mean of those that are defined; NaN if none is."""
    defined = [share for share in shares if not np.isnan(share)]
    return float(np.mean(defined)) if defined else float("nan")


def choose_gallery(scored: ScoredSplit) -> list[Explanation]:
    """Two each of the clearest hits, misses, false alarms and correct rejections, with heatmaps.

    Empty for a network that has no heatmaps.
    """
    if not scored.predictor.has_gradcam:
        return []
    positive, probability = scored.predictions.positive, scored.predictions.probability
    called = probability >= scored.predictor.thresholds["youden"]
    chosen: list[tuple[int, str]] = []
    for kind, group, descending in (
        ("hit", positive & called, True),
        ("miss", positive & ~called, False),
        ("false alarm", ~positive & called, True),
        ("correct rejection", ~positive & ~called, False),
    ):
        members = np.flatnonzero(group)
        order = members[np.argsort(probability[members], kind="stable")]
        chosen += [(int(i), kind) for i in (order[::-1] if descending else order)[:_SHOWN]]
    indices = [i for i, _ in chosen]
    images, masks = scored.images(indices), scored.masks(indices, _structure(scored))
    heatmaps = scored.predictor.heatmaps(images)
    return [
        Explanation(
            image,
            heatmap,
            f"{kind}, p = {probability[i]:.2f}: {scored.predictions.ids[i]}",
            _fitted(masks[i], image.shape) if i in masks else None,
        )
        for (i, kind), image, heatmap in zip(chosen, images, heatmaps, strict=True)
    ]


def _fitted(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The mask scaled to an image."""
    height, width = shape
    return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
