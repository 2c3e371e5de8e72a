"""A case: a picture, a volume or a DICOM series, and what the networks say of it.

Of a case of several slices a network's probability is their mean, as `jaxcovid.predict` has it.
"""

import collections
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from jaxcovid.inference.mask_writer import figures
from jaxcovid.metrics.calibration import at_prevalence
from jaxcovid.metrics.involvement import pool, stack
from jaxcovid.serving.decoding import HOUNSFIELD, Slice
from jaxcovid.serving.served_networks import Answer, Served

PICTURE, VOLUME, SERIES = "picture", "volume", "series"
GRAY_WINDOW = (127.5, 255.0)  # that changes no gray level
_DISTANCE = re.compile(r" \([\d.]+ of the limit\)")  # by which warnings of one kind differ


@dataclass
class Entry:
    """A slice of a case.

    Attributes:
      number: by which it is asked for; it never changes.
      upload: number of the uploaded file.
      name: of that file.
      slice: its pixels.
      answers: of each network; empty while it waits, or if it cannot be used.
    """

    number: int
    upload: int
    name: str
    slice: Slice
    answers: tuple[Answer, ...] = ()

    @property
    def finished(self) -> bool:
        """True if there is nothing left to do about it."""
        return bool(self.slice.error or self.answers)


@dataclass
class Case:
    """What is screened and looked at as one.

    Attributes:
      number: by which it is asked for.
      kind: `PICTURE`, `VOLUME` or `SERIES`.
      title: name of its file, of a series of its first one.
      unit: see `Decoded`.
      entries: its slices, as they came.
      notes: in what unusual ways files were read.
    """

    number: int
    kind: str
    title: str
    unit: str
    entries: list[Entry] = field(default_factory=list)
    notes: set[str] = field(default_factory=set)

    def ordered(self) -> list[Entry]:
        """The slices from feet to head, those of unknown or equal height as they were sent."""

        def place(entry: Entry) -> tuple[float, int, int]:
            height = entry.slice.height
            return math.inf if height is None else height, entry.upload, entry.number

        return sorted(self.entries, key=place)

    def answered(self) -> list[Entry]:
        """The slices that have answers, in order."""
        return [entry for entry in self.ordered() if entry.answers]


@dataclass(frozen=True)
class Meaning:
    """What a calibrated probability means.

    Attributes:
      fitted_at: share of the positive class in the images that it was calibrated on.
      prevalence: where the image comes from.
      probability: at that prevalence.
      text: in words.
    """

    fitted_at: float
    prevalence: float
    probability: float
    text: str


@dataclass(frozen=True)
class Finding:
    """What a network says of a case.

    Attributes:
      network: its name.
      probabilities: by output, the mean over slices; empty if no slice has an answer yet.
      decision: in words; empty of a network for findings.
      threshold: from which it is positive; None of a network for findings.
      meaning: of the probability of a single slice; None where it is not known.
      slice_probabilities: of each slice in order, of the positive class or of the highest finding;
        None of one without.
      most_suspicious: number of the slice of the highest.
      involvement: share of the lungs, grade and where, see `metrics.involvement`; empty without
        masks.
      warnings: how many slices have each.
    """

    network: str
    probabilities: dict[str, float]
    decision: str
    threshold: float | None
    meaning: Meaning | None
    slice_probabilities: list[float | None]
    most_suspicious: int | None
    involvement: dict[str, str]
    warnings: dict[str, int]


@dataclass(frozen=True)
class CaseSummary:
    """A case in a list.

    Attributes:
      number: by which it is asked for.
      kind: picture, volume or series.
      title: name of its file.
      slices: that came so far.
      finished: slices that are screened or cannot be used.
      failed: slices that cannot be used.
      probabilities: of each network, of the positive class or of the highest finding; None until
        there is one.
      decisions: of each network; of one for findings the name of the highest.
    """

    number: int
    kind: str
    title: str
    slices: int
    finished: int
    failed: int
    probabilities: list[float | None]
    decisions: list[str]


@dataclass(frozen=True)
class CaseView:
    """All about a case.

    Attributes:
      summary: see `CaseSummary`.
      unit: of its values, see `Decoded`.
      window: centre and width in which it is shown at first, in that unit.
      numbers: of its slices, in order.
      errors: of slices by their number.
      notes: in what unusual ways files were read.
      findings: of each network.
    """

    summary: CaseSummary
    unit: str
    window: tuple[float, float]
    numbers: list[int]
    errors: dict[int, str]
    notes: list[str]
    findings: list[Finding]


def summarise(case: Case, served: Sequence[Served]) -> CaseSummary:
    """The case in a list."""
    answered = case.answered()
    means = [_mean(answered, index) for index in range(len(served))]
    return CaseSummary(
        number=case.number,
        kind=case.kind,
        title=case.title,
        slices=len(case.entries),
        finished=sum(entry.finished for entry in case.entries),
        failed=sum(bool(entry.slice.error) for entry in case.entries),
        probabilities=[
            float(each.suspicion(mean)) if mean.size else None
            for each, mean in zip(served, means, strict=True)
        ],
        decisions=[
            each.decide(mean) if each.limit is not None else _highest(each, mean)
            for each, mean in zip(served, means, strict=True)
        ],
    )


def _highest(served: Served, mean: np.ndarray) -> str:
    """The name of the highest finding; empty without probabilities."""
    return served.network.outputs[served.network.task.leading(mean)] if mean.size else ""


def view(case: Case, served: Sequence[Served], *, prevalence: float | None) -> CaseView:
    """All about a case.

    Args:
      case: of a session.
      served: the networks.
      prevalence: where its images come from, above 0 and below 1; None is that of the training.
    """
    ordered = case.ordered()
    return CaseView(
        summary=summarise(case, served),
        unit=case.unit,
        window=served[0].network.window if case.unit == HOUNSFIELD else GRAY_WINDOW,
        numbers=[entry.number for entry in ordered],
        errors={entry.number: entry.slice.error for entry in ordered if entry.slice.error},
        notes=sorted(case.notes),
        findings=[find(case, i, each, prevalence=prevalence) for i, each in enumerate(served)],
    )


def find(case: Case, index: int, served: Served, *, prevalence: float | None = None) -> Finding:
    """What a network says of a case; see `view`."""
    ordered, answered = case.ordered(), case.answered()
    answers = [entry.answers[index] for entry in answered]
    mean = _mean(answered, index)
    areas = [answer.areas for answer in answers if answer.areas is not None]
    whole = None
    if areas:
        whole = stack(areas) if case.kind == VOLUME else pool(areas)
    warned = [_DISTANCE.sub("", answer.warning) for answer in answers if answer.warning]
    return Finding(
        network=served.name,
        probabilities=dict(zip(served.network.task.outputs, mean.tolist(), strict=False)),
        decision=served.decide(mean),
        threshold=served.limit,
        meaning=_meaning(case, served, mean, prevalence),
        slice_probabilities=[
            served.suspicion(entry.answers[index].probabilities) if entry.answers else None
            for entry in ordered
        ],
        most_suspicious=_most_suspicious(answered, index, served),
        involvement=figures(whole) if whole else {},
        warnings=dict(collections.Counter(warned)),
    )


def _mean(answered: Sequence[Entry], index: int) -> np.ndarray:
    """A network's probabilities of all outputs, the mean over slices; empty without any."""
    probabilities = [entry.answers[index].probabilities for entry in answered]
    return np.mean(probabilities, 0) if probabilities else np.array([])


def _most_suspicious(answered: Sequence[Entry], index: int, served: Served) -> int | None:
    """The number of the slice of the highest suspicion, of equal ones that with most lesion."""

    def suspicion(entry: Entry) -> tuple[float, int]:
        answer = entry.answers[index]
        lesion = answer.areas.lesion if answer.areas else 0
        return served.suspicion(answer.probabilities), lesion

    return max(answered, key=suspicion).number if answered else None


def _meaning(
    case: Case, served: Served, mean: np.ndarray, prevalence: float | None
) -> Meaning | None:
    """What the probability of one slice means; of a mean over slices nothing is calibrated."""
    facts = served.network.training_facts
    if len(case.entries) > 1 or facts is None or not mean.size or not served.network.classifies:
        return None
    if not 0 < facts.prevalence < 1:
        return None
    at = facts.prevalence if prevalence is None else prevalence
    probability = float(at_prevalence(mean[0], facts.prevalence, at))
    if math.isnan(probability):
        return None
    name = served.network.task.outputs[0]
    return Meaning(
        fitted_at=facts.prevalence,
        prevalence=at,
        probability=probability,
        text=(
            f"Where {_per_hundred(at)} of 100 images show {name}, of 100 with this answer "
            f"{100 * probability:.0f} do. Calibrated on validation images of {served.trained_on}, "
            f"{100 * facts.prevalence:.0f} % of which show it; elsewhere it may mean more or less."
        ),
    )


def _per_hundred(share: float) -> str:
    """A share of a hundred, with a decimal where the whole number would be 0 or 100, or almost."""
    return f"{100 * share:.0f}" if 0.1 <= share <= 0.99 else f"{100 * share:.3g}"
