"""What an evaluation asks a network beyond its scores: calibration, controls, heatmaps, rivals."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np

from jaxcovid.data.ablations import CONTROLS, Control, mask_of, mass_inside
from jaxcovid.data.decoding import decode_gray
from jaxcovid.evaluation.scored import Scored, ask, check_same
from jaxcovid.inference.predictor import Predictor
from jaxcovid.metrics import bootstrap, calibration, scores
from jaxcovid.metrics.subgroups import subgroup_scores

_SHUFFLES = 5  # of weights, to compare heatmaps with


@dataclasses.dataclass(frozen=True)
class _Part(Sequence[Any]):
    """Some records of a source, read when they are asked for."""

    source: Sequence[Any]
    chosen: Sequence[int]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Any:
        return self.source[self.chosen[index]]


def usual_sections(scored: Scored) -> dict[str, Any]:
    """What every evaluation of a network that screens has: calibration, subgroups, heatmaps."""
    return {
        "calibration": calibration_section(scored),
        "subgroups": subgroup_scores(
            scored.predictions, scored.groups, threshold=scored.predictor.thresholds["youden"]
        ),
        "heatmaps": heatmaps_section(scored),
    }


def calibration_section(scored: Scored) -> dict[str, Any]:
    """Temperature, and the scores of calibration before and after it."""
    probability = scored.predictions.probabilities[:, 0].astype(np.float64)
    return {
        "temperature": scored.predictor.temperature,
        "before": calibration.calibration(scored.positive, scored.uncalibrated),
        "after": calibration.calibration(scored.positive, probability),
        "reliability": calibration.reliability(scored.positive, probability),
    }


def controls_section(scored: Scored, *, workers: int = 0) -> list[dict[str, Any]]:
    """The AUC on altered images, beside that on the same images unaltered.

    `lungs_only` is of the images that have a mask.

    Raises:
      ValueError: the network was trained on altered images.
    """
    if scored.predictor.facts["config"]["control"] != "none":
        raise ValueError("--controls alters the images of a network that was trained on others")
    rows = []
    everything = range(len(scored.source))
    for name in CONTROLS:
        chosen = list(everything)
        if name == "lungs_only":
            chosen = [] if _has_lesions(scored) else list(_masks(scored, everything))
        positive = scored.positive[chosen]
        if not 0 < positive.sum() < positive.size:
            continue
        altered = ask(
            scored.predictor,
            _Part(scored.source, chosen),
            control=Control(name),
            workers=workers,
        )
        found = bootstrap.intervals(
            [scored.predictions.patients[i] for i in chosen],
            aucs={
                "auc": (positive, altered[:, 0].astype(np.float64)),
                "unaltered": (positive, scored.uncalibrated[chosen].astype(np.float64)),
            },
            ratios={},
        )
        rows.append({"control": name, "n": len(chosen), **found})
    return rows


def heatmaps_section(scored: Scored) -> dict[str, Any] | None:
    """Share of the heatmaps' mass inside the masks, beside the masks' share of the area.

    Of all images with a mask of the lungs, or of those of the positive class with one of the
    lesion; `randomised` is that of the same network with its weights shuffled, which looks nowhere
    (Adebayo et al. 2018, arXiv:1810.03292). None without such images or heatmaps.
    """
    if not scored.predictor.has_gradcam:
        return None
    lesion = _has_lesions(scored)
    masks = _masks(scored, np.flatnonzero(scored.positive) if lesion else range(len(scored.source)))
    if not masks:
        return None
    images = [decode_gray(scored.source[i]["image"]) for i in masks]

    def shares(network: Predictor) -> list[float]:
        pairs = zip(network.heatmaps(images), masks.values(), strict=True)
        return [mass_inside(heatmap, mask) for heatmap, mask in pairs]

    inside = shares(scored.predictor)
    # Many heatmaps of a network with shuffled weights are empty: several shuffles.
    networks = map(scored.predictor.with_shuffled_weights, range(_SHUFFLES))
    shuffled_inside = [share for network in networks for share in shares(network)]
    area = float(np.mean([mask.mean() for mask in masks.values()]))
    return {"n": len(masks), "of": "lesion" if lesion else "lungs", "area": area} | {
        "mass": _mean(inside),
        "empty": int(np.isnan(inside).sum()),
        "randomised": _mean(shuffled_inside),
    }


def _has_lesions(scored: Scored) -> bool:
    """True if the masks of the data set are of lesions; else of lungs."""
    return "mask" in scored.source[0]


def _masks(scored: Scored, indices: Iterable[int]) -> dict[int, np.ndarray]:
    """The masks, bool [h, w], of those images that have one with something in it."""
    found = {int(i): mask_of(scored.source[int(i)]) for i in indices}
    return {i: mask for i, mask in found.items() if mask is not None and mask.any()}


def _mean(shares: Sequence[float]) -> float:
    """The mean of those that are defined; NaN if none is."""
    defined = [share for share in shares if not np.isnan(share)]
    return float(np.mean(defined)) if defined else float("nan")


def gallery(scored: Scored) -> dict[str, Any] | None:
    """Two each of the clearest hits, misses, false alarms and correct rejections, with heatmaps.

    None of a network that has no heatmaps, or none for a class.
    """
    if not (scored.predictor.screening and scored.predictor.has_gradcam):
        return None
    positive, probability = scored.positive, scored.predictions.probabilities[:, 0]
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
        chosen += [(int(i), kind) for i in (order[::-1] if descending else order)[:2]]
    records = [scored.source[i] for i, _ in chosen]
    images = [decode_gray(record["image"]) for record in records]
    masks = [mask_of(record) for record in records]
    captions = [
        f"{kind}, p = {probability[i]:.2f}: {record['id']}"
        for (i, kind), record in zip(chosen, records, strict=True)
    ]
    sizes = zip(images, masks, strict=True)
    return {
        "images": images,
        "heatmaps": list(scored.predictor.heatmaps(images)),
        "captions": captions,
        "masks": [m if m is None else _fitted(m, image.shape) for image, m in sizes],
    }


def _fitted(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    height, width = shape
    return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0


def against_section(scored: Scored, other: Scored) -> dict[str, Any]:
    """How much better this network is than another on the same images, resampled together.

    Raises:
      ValueError: the two were asked about other images, or for another class.
    """
    check_same(scored, other)
    found = [s.predictions.probabilities[:, 0].astype(np.float64) for s in (other, scored)]
    return {
        "auc": scores.auc(scored.positive, found[0]),
        "difference": bootstrap.auc_difference(
            scored.predictions.patients, scored.positive, (found[0], found[1])
        ),
    }
