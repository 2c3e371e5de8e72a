"""The masks of a network that segments: beside true ones, and what they say of the lungs."""

import collections
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxcovid.data.datasets import Record
from jaxcovid.data.decoding import decode_gray
from jaxcovid.data.masks import decode_masks
from jaxcovid.data.structures import STRUCTURES, UNKNOWN
from jaxcovid.evaluation.saliency import MaskedImages
from jaxcovid.evaluation.scored import ScoredSplit
from jaxcovid.evaluation.segmentation_result import (
    OutlinedSlice,
    PatientInvolvement,
    Segmentation,
)
from jaxcovid.metrics import bootstrap
from jaxcovid.metrics.interval import Score
from jaxcovid.metrics.involvement import Areas, Involvement, involvement, measure_slice, pool, stack
from jaxcovid.metrics.ratios import mean_interval
from jaxcovid.metrics.segmentation import MaskComparison

_SHOWN = 12  # slices with contours


@dataclass(frozen=True)
class _Slice:
    """What is kept of a slice.

    Attributes:
      patient: id.
      volume: name; empty if it is not known.
      place: in the volume, from the feet on.
      predicted: areas of the network's masks.
      truth: areas of the true masks; None unless both are known.
    """

    patient: str
    volume: str
    place: int
    predicted: Areas
    truth: Areas | None


def measure_segmentation(
    scored: ScoredSplit, masked: MaskedImages
) -> tuple[Segmentation | None, dict[str, list[np.ndarray]]]:
    """Segments every image of a split, once.

    Args:
      scored: the split.
      masked: images that heatmaps are measured on.

    Returns:
      The section "segmentation" of a result, and the decoder's own explanation of `masked`, by
      name: of each image its probability of the lesion, float32 [h, w]. None, and nothing, of a
      network that does not segment.
    """
    if not scored.predictor.segments:
        return None, {}
    comparisons = {name: MaskComparison() for name in STRUCTURES}
    compared, slices, overlays, lesions = set(), [], [], {}
    shown = set(np.linspace(0, len(scored.source) - 1, _SHOWN).round().astype(int).tolist())
    for i, record, gray, probabilities in _segmented(scored, masked.grays):
        masks = probabilities >= 0.5
        if i in masked.grays:
            lesions[i] = probabilities[..., STRUCTURES.index("lesion")].copy()
        truth = decode_masks(record, gray.shape)
        volume = record.get("volume", "")
        for channel, name in enumerate(STRUCTURES):
            if truth[0, 0, channel] != UNKNOWN:
                compared.add(name)
                comparisons[name].add(
                    volume or record["patient"], truth[..., channel] == 1, masks[..., channel]
                )
        slices.append(
            _Slice(
                record["patient"],
                volume,
                record.get("slice_index", 0),
                _areas(masks),
                None if UNKNOWN in truth[0, 0] else _areas(truth == 1),
            )
        )
        if i in shown:
            share = involvement(slices[-1].predicted).share
            overlays.append(OutlinedSlice(gray, masks, f"{record['id']}: {share:.0%} of the lungs"))
    patients = _patients(slices)
    section = Segmentation(
        scores={name: comparisons[name].scores() for name in STRUCTURES if name in compared},
        patients=patients,
        auc=_auc(scored, slices),
        **agreement(patients),
        overlays=overlays,
    )
    return section, {"decoder": [lesions[i] for i in masked.grays]}


def _segmented(
    scored: ScoredSplit, decoded: Mapping[int, np.ndarray]
) -> Iterator[tuple[int, Record, np.ndarray, np.ndarray]]:
    """Of each image its index, record, gray values uint8 [h, w] and probabilities [h, w, 2]."""
    size = scored.predictor.batch_size
    for start in range(0, len(scored.source), size):
        indices = range(start, min(start + size, len(scored.source)))
        records = [scored.source[i] for i in indices]
        grays = [
            decoded[i] if i in decoded else decode_gray(record["image"])
            for i, record in zip(indices, records, strict=True)
        ]
        yield from zip(indices, records, grays, scored.predictor.segment(grays), strict=True)


def _areas(masks: np.ndarray) -> Areas:
    return measure_slice(masks[..., 0], masks[..., 1])


def _patients(slices: Sequence[_Slice]) -> list[PatientInvolvement]:
    """The involvement of each patient, in the order of their names."""
    members: Mapping[str, list[_Slice]] = collections.defaultdict(list)
    for each in slices:
        members[each.patient].append(each)
    return [
        PatientInvolvement(
            patient,
            len(own),
            _pooled([(each, each.predicted) for each in own]),
            _pooled([(each, each.truth) for each in own if each.truth])
            if all(each.truth for each in own)
            else None,
        )
        for patient, own in sorted(members.items())
    ]


def _pooled(slices: Sequence[tuple[_Slice, Areas]]) -> Involvement:
    """The involvement of a patient: volumes from the feet to the head, other images as they are."""
    volumes: dict[str, list[tuple[int, Areas]]] = collections.defaultdict(list)
    for each, areas in slices:
        volumes[each.volume].append((each.place, areas))
    loose = [areas for _, areas in volumes.pop("", [])]
    stacked = [
        stack([areas for _, areas in sorted(volume, key=lambda entry: entry[0])])
        for volume in volumes.values()
    ]
    return involvement(pool([*loose, *stacked]))


def agreement(patients: Sequence[PatientInvolvement]) -> dict[str, Score]:
    """How well the involvement of patients agrees with that of their true masks.

    Returns:
      The fields `involvement_error` and `grade_agreement` of a `Segmentation`, with intervals over
      patients; nothing where no true masks are known.
    """
    names, errors, agree = [], [], []
    for each in patients:
        if each.truth:
            names.append(each.patient)
            errors.append(abs(each.predicted.share - each.truth.share))
            agree.append(float(each.predicted.grade == each.truth.grade))
    if not names:
        return {}
    return {
        "involvement_error": mean_interval(names, np.array(errors), scale="positive"),
        "grade_agreement": mean_interval(names, np.array(agree), scale="share"),
    }


def _auc(scored: ScoredSplit, slices: Sequence[_Slice]) -> Score | None:
    """Of the share involved, beside the probability of a joint network."""
    positive, predictor = scored.predictions.positive, scored.predictor
    joint = predictor.task.screens and predictor.classifies
    if not joint or positive.all() or not positive.any():
        return None
    shares = np.array([involvement(each.predicted).share for each in slices])
    return bootstrap.intervals(
        scored.predictions.patients, aucs={"auc": (positive, shares)}, ratios={}
    )["auc"]
