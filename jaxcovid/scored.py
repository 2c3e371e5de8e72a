"""What a trained network says about a split, and what follows for it alone."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from jaxcovid.data.datasets import Dataset
from jaxcovid.data.images import decode_gray
from jaxcovid.evaluation import bootstrap, calibration, metrics
from jaxcovid.evaluation.controls import CONTROLS, Control, mask_of, mass_inside
from jaxcovid.predictor import Predictor
from jaxcovid.training.loop import predict_source
from jaxcovid.training.targets import ClassTargets, FindingTargets, shuffled

_SHUFFLES = 5  # of weights, to compare heatmaps with


@dataclasses.dataclass(frozen=True)
class Scored:
    """A network's answers for every image of a split, once.

    Attributes:
      predictor: the network.
      dataset: that was asked about; not always the run's own.
      split: its name.
      source: the records.
      predictions: calibrated.
      uncalibrated: probabilities of the positive class before the temperature, float [n].
    """

    predictor: Predictor
    dataset: Dataset
    split: str
    source: Sequence[Mapping[str, Any]]
    predictions: metrics.Predictions
    uncalibrated: np.ndarray

    @property
    def positive(self) -> np.ndarray:
        """True where an image is of the positive class, bool [n]."""
        return self.predictions.targets[:, 0]


def score_split(predictor: Predictor, dataset: Dataset, split: str, *, workers: int = 0) -> Scored:
    """Asks a network about a split.

    Raises:
      ValueError: no such split, images of another modality, or classes or findings that the network
        was not trained for.
    """
    facts = predictor.facts
    if dataset.name != facts["dataset"]["name"]:
        _check_external(dataset, predictor)
    elif dataset.digest != facts["dataset"]["digest"]:
        logging.warning(
            "The data set %s has changed since training: its digest is %s, the run's %s",
            dataset.name,
            dataset.digest,
            facts["dataset"]["digest"],
        )
    source = dataset.source(split)
    probabilities = _ask(predictor, source, control=predictor.control, workers=workers)
    # Where the other classes have other names, only the positive one can be told from the rest.
    known = set(predictor.outputs) <= set(_told(dataset, predictor))
    outputs = predictor.outputs if known else predictor.outputs[:1]
    if predictor.screening:
        targets: Any = ClassTargets(outputs, dataset.class_names)
    else:
        uncertain = facts["config"]["uncertain"]
        targets = FindingTargets(outputs, tuple(uncertain["ones"]), tuple(uncertain["ignore"]))
    if facts["config"]["control"] == "shuffled_labels":
        targets = shuffled(targets, source, seed=facts["config"]["seed"])
    records = [
        {k: v for k, v in source[i].items() if not isinstance(v, bytes)} for i in range(len(source))
    ]
    wanted = np.stack([targets(record) for record in records])
    calibrated = predictor.calibrate(probabilities)[:, : len(outputs)]
    predictions = metrics.Predictions(
        ids=[record["id"] for record in records],
        patients=[record["patient"] for record in records],
        targets=wanted > 0.5,
        probabilities=calibrated,
        outputs=outputs,
        known=None if predictor.screening else wanted >= 0,
    )
    return Scored(predictor, dataset, split, source, predictions, probabilities[:, 0])


def _ask(
    predictor: Predictor,
    source: Sequence[Mapping[str, Any]],
    *,
    control: Control | None,
    workers: int,
) -> np.ndarray:
    """Uncalibrated probabilities float32 [n, outputs] of all records."""
    return predict_source(
        predictor.weights,
        source,
        forward=predictor.forward,
        preprocessing=predictor.preprocessing,
        batch_size=predictor.batch_size,
        mesh=predictor.mesh,
        control=control,
        workers=workers,
    )


def _check_external(dataset: Dataset, predictor: Predictor) -> None:
    if dataset.modality and predictor.modality and dataset.modality != predictor.modality:
        raise ValueError(
            f"{dataset.name} holds {dataset.modality} images, this network was trained on "
            f"{predictor.modality}"
        )
    told = _told(dataset, predictor)
    needed = predictor.outputs[:1] if predictor.screening else predictor.outputs
    if absent := [name for name in needed if name not in told]:
        raise ValueError(
            f"{dataset.name} does not tell of {' and '.join(absent)}, which this network does; "
            f"it tells of {', '.join([*dataset.class_names, *dataset.finding_names])}"
        )


def _told(dataset: Dataset, predictor: Predictor) -> tuple[str, ...]:
    """What a data set tells of that a network can be compared with."""
    return dataset.class_names if predictor.screening else dataset.finding_names


@dataclasses.dataclass(frozen=True)
class _Part(Sequence[Any]):
    """Some records of a source, read when they are asked for."""

    source: Sequence[Any]
    chosen: Sequence[int]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Any:
        return self.source[self.chosen[index]]


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
    masked = [
        i
        for i in range(len(scored.source))
        if (m := mask_of(scored.source[i])) is not None and m.any()
    ]
    lesions = "mask" in scored.source[0]
    for name in CONTROLS:
        if name == "lungs_only" and lesions:
            continue
        chosen = masked if name == "lungs_only" else list(range(len(scored.source)))
        positive = scored.positive[chosen]
        if not 0 < positive.sum() < positive.size:
            continue
        altered = _ask(
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
    (Adebayo et al. 2018, arXiv:1810.03292). None without such images.
    """
    lesion = "mask" in scored.source[0]
    chosen, masks = [], []
    for index in np.flatnonzero(scored.positive) if lesion else range(len(scored.source)):
        mask = mask_of(scored.source[int(index)])
        if mask is not None and mask.any():
            chosen.append(int(index))
            masks.append(mask)
    if not chosen:
        return None
    images = [decode_gray(scored.source[i]["image"]) for i in chosen]

    def shares(network: Predictor) -> list[float]:
        pairs = zip(network.heatmaps(images), masks, strict=True)
        return [mass_inside(heatmap, mask) for heatmap, mask in pairs]

    inside = shares(scored.predictor)
    # Many heatmaps of a network with shuffled weights are empty: several shuffles.
    networks = map(scored.predictor.with_shuffled_weights, range(_SHUFFLES))
    shuffled_inside = [share for network in networks for share in shares(network)]
    area = float(np.mean([mask.mean() for mask in masks]))
    return {"n": len(chosen), "of": "lesion" if lesion else "lungs", "area": area} | {
        "mass": _mean(inside),
        "empty": int(np.isnan(inside).sum()),
        "randomised": _mean(shuffled_inside),
    }


def _mean(shares: Sequence[float]) -> float:
    """The mean of those that are defined; NaN if none is."""
    defined = [share for share in shares if not np.isnan(share)]
    return float(np.mean(defined)) if defined else float("nan")


def gallery(scored: Scored) -> dict[str, Any]:
    """Two each of the clearest hits, misses, false alarms and correct rejections, with heatmaps."""
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
        "auc": metrics.auc(scored.positive, found[0]),
        "difference": bootstrap.auc_difference(
            scored.predictions.patients, scored.positive, (found[0], found[1])
        ),
    }


def check_same(scored: Scored, other: Scored) -> None:
    """Checks that two networks were asked the same about the same images.

    Raises:
      ValueError: they were not.
    """
    one, two = scored.predictions, other.predictions
    if list(one.ids) != list(two.ids):
        raise ValueError(
            f"the networks were asked about other images ({len(one.ids)} and {len(two.ids)}); "
            "compare runs of one data set, or give --dataset"
        )
    if one.outputs[0] != two.outputs[0]:
        raise ValueError(
            f"one network looks for {one.outputs[0]}, the other for {two.outputs[0]}; compare runs "
            "of one class"
        )
    if not np.array_equal(scored.positive, other.positive):
        raise ValueError("the networks have other labels of the same images (shuffled ones?)")


def check_held_out(scored: Scored, trained_on: Dataset) -> None:
    """Checks that no image of an external test was trained on.

    Args:
      scored: on another data set than the run's own.
      trained_on: the run's own.

    Raises:
      ValueError: some were, as where one data set has two splits.
    """
    used = set()
    for split in ("train", "validation"):
        source = trained_on.source(split)
        used |= {source[i]["id"] for i in range(len(source))}
    if seen := used & set(scored.predictions.ids):
        raise ValueError(
            f"{len(seen)} of {len(scored.predictions.ids)} images of {scored.dataset.name} were in "
            f"the training or validation of this network ({trained_on.name}); that is no test"
        )
