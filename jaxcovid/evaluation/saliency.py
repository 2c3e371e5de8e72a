"""Heatmaps on trial: do they lie in the lesion, does the probability depend on what they show?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from jaxcovid.data.ablations import mass_inside
from jaxcovid.data.structures import STRUCTURES
from jaxcovid.evaluation.deletion import RANDOM, deletion_areas
from jaxcovid.evaluation.result import Explanation, ExplanationScores, Saliency
from jaxcovid.evaluation.scored import ScoredSplit
from jaxcovid.inference.predictor import Predictor
from jaxcovid.metrics.interval import Score
from jaxcovid.metrics.ratios import Scale, mean_interval
from jaxcovid.metrics.thresholds import main_name

GRAD_CAM = "Grad-CAM"
SHUFFLED = "Grad-CAM, weights shuffled"

_SHUFFLES = 5  # of weights, to compare heatmaps with
_DELETED = 200  # images whose deletion curves are measured, at most
_SHOWN = 2  # images of a kind in the gallery

# By explanation, one map float [any, any] an image.
Maps = Mapping[str, np.ndarray | Sequence[np.ndarray]]


@dataclass(frozen=True)
class MaskedImages:
    """The images that explanations are measured on, with what they should show.

    Attributes:
      masks: bool [h, w], by index in the split.
      grays: uint8 [h, w], likewise.
    """

    masks: Mapping[int, np.ndarray]
    grays: Mapping[int, np.ndarray]


def masked_images(scored: ScoredSplit) -> MaskedImages:
    """Decodes the images that explanations are measured on.

    Those of the positive class with a mask of the lesion, or, if the data set has none, all with
    one of the lungs. None of a network for findings, or without heatmaps.
    """
    if not (scored.predictor.task.screens and scored.predictor.has_gradcam):
        return MaskedImages({}, {})
    everything: Iterable[int] = range(len(scored.source))
    diseased = scored.predictions.positive.nonzero()[0]
    structure = _structure(scored)
    masks = scored.masks(diseased if structure == "lesion" else everything, structure)
    return MaskedImages(masks, dict(zip(masks, scored.images(masks), strict=True)))


def measure_saliency(
    scored: ScoredSplit, masked: MaskedImages, maps: Maps | None = None
) -> Saliency | None:
    """How far the network's heatmaps, and other maps of the same images, can be trusted.

    Beside them is the same network with its weights shuffled, which looks nowhere (Adebayo et al.
    2018, arXiv:1810.03292).

    Args:
      scored: the split.
      masked: its `masked_images`.
      maps: of other explanations, by name: one map of each of these, in their order, float
        [any, any], not negative, over the whole image.

    Returns:
      None without images.

    Raises:
      ValueError: another number of maps than of images.
    """
    predictor, masks = scored.predictor, masked.masks
    if not masks:
        return None
    for name, each in (maps or {}).items():
        if len(each) != len(masks):
            raise ValueError(f"{len(each)} maps of {name} for {len(masks)} images with a mask")
    patients = [scored.predictions.patients[i] for i in masks]
    images = list(masked.grays.values())
    compared: Maps = {GRAD_CAM: predictor.heatmaps(images), **(maps or {})}
    # Many heatmaps of a network with shuffled weights are empty: several shuffles.
    shuffled = [
        heatmap
        for seed in range(_SHUFFLES)
        for heatmap in predictor.with_shuffled_weights(seed).heatmaps(images)
    ]
    deleted = _chosen_for_deletion(scored.predictions.positive[list(masks)])
    curves = _deletion(
        predictor,
        [images[row] for row in deleted],
        {name: [each[row] for row in deleted] for name, each in compared.items()},
        [patients[row] for row in deleted],
    )
    explanations = {
        name: _score(each, list(masks.values()), patients, curves.get(name, {}))
        for name, each in compared.items()
    }
    explanations[SHUFFLED] = _score(
        shuffled, [*masks.values()] * _SHUFFLES, patients * _SHUFFLES, {}
    )
    return Saliency(
        n=len(masks),
        masks=_structure(scored),
        area=float(np.mean([mask.mean() for mask in masks.values()])),
        explanations=explanations,
        n_deleted=len(deleted),
        random_deletion=curves.get(RANDOM, {}).get("deletion"),
    )


def _structure(scored: ScoredSplit) -> str:
    """What the masks that heatmaps are compared with are of."""
    return "lesion" if scored.has_lesion_masks else "lungs"


def _chosen_for_deletion(positive: np.ndarray) -> np.ndarray:
    """The indices of the positive of bool [n] images; of too many a random part."""
    rows = np.flatnonzero(positive)
    return np.sort(np.random.default_rng(0).permutation(rows)[:_DELETED])


def _deletion(
    predictor: Predictor, images: Sequence[np.ndarray], maps: Maps, patients: Sequence[str]
) -> dict[str, dict[str, Score]]:
    """The fields `deletion` and `gain` of explanations and of the random order, by name.

    Args:
      predictor: the network.
      images: n gray images; none give no fields.
      maps: of these.
      patients: of these.
    """
    if not images:
        return {}
    areas = deletion_areas(predictor, images, maps)

    def mean(values: np.ndarray, scale: Scale) -> Score:
        return mean_interval(patients, values, scale=scale)

    return {
        name: {"deletion": mean(area, "share"), "gain": mean(areas[RANDOM] - area, "signed")}
        for name, area in areas.items()
    }


def _score(
    maps: np.ndarray | Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    patients: Sequence[str],
    deletion: Mapping[str, Score],
) -> ExplanationScores:
    """The scores of one explanation: n maps, masks bool [h, w] and patients."""
    pairs = list(zip(maps, masks, strict=True))
    mass = np.array([mass_inside(each, mask) for each, mask in pairs])
    peaks = np.array([_peak_inside(each, mask) for each, mask in pairs])
    return ExplanationScores(
        mass=mean_interval(patients, mass, scale="share"),
        pointing=mean_interval(patients, peaks, scale="share"),
        empty=int(np.isnan(mass).sum()),
        **deletion,
    )


def _peak_inside(heatmap: np.ndarray, mask: np.ndarray) -> float:
    """1 if the highest-rated pixel is in the mask, else 0; of several the share; NaN if all are 0.

    The pointing game of Zhang et al. 2018, arXiv:1608.00507, without its tolerance of 15 pixels.
    """
    if not np.any(heatmap):
        return float("nan")
    size = mask.shape[::-1]
    large = cv2.resize(heatmap.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return float(mask[large == large.max()].mean())


def choose_gallery(scored: ScoredSplit) -> list[Explanation]:
    """Two each of the clearest hits, misses, false alarms and correct rejections, with heatmaps.

    Empty for a network that has no heatmaps.
    """
    if not scored.predictor.has_gradcam:
        return []
    positive, probability = scored.predictions.positive, scored.predictions.probability
    called = probability >= scored.predictor.thresholds[main_name(scored.predictor.thresholds)]
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
    lesions: Sequence[np.ndarray | None] = [None] * len(images)
    if scored.predictor.segments:
        channel = STRUCTURES.index("lesion")
        lesions = [each[..., channel] for each in scored.predictor.segment(images)]
    return [
        Explanation(
            image,
            heatmap,
            f"{kind}, p = {probability[i]:.2f}: {scored.predictions.ids[i]}",
            _fitted(masks[i], image.shape) if i in masks else None,
            lesion,
        )
        for (i, kind), image, heatmap, lesion in zip(chosen, images, heatmaps, lesions, strict=True)
    ]


def _fitted(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The mask scaled to an image."""
    height, width = shape
    return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
