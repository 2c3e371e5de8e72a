"""What an evaluation says of masks of lungs and lesion: the section "segmentation" of a result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jaxcovid.metrics.interval import Score
from jaxcovid.metrics.involvement import GRADES, Involvement
from jaxcovid.metrics.segmentation import SegmentationScores


@dataclass(frozen=True)
class OutlinedSlice:
    """A slice and the masks that are outlined on it.

    Attributes:
      gray: uint8 [h, w].
      masks: bool or uint8 [h, w, 2], lungs and lesion, inside where 1.
      caption: over the picture.
    """

    gray: np.ndarray
    masks: np.ndarray
    caption: str


@dataclass(frozen=True)
class PatientInvolvement:
    """How much of a patient's lungs is involved.

    Attributes:
      patient: id.
      n: images.
      predicted: of the masks of the network.
      truth: of the true masks; None if they are not known.
    """

    patient: str
    n: int
    predicted: Involvement
    truth: Involvement | None = None


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """The masks of lungs and lesion.

    Attributes:
      scores: against true masks, "lungs" and "lesion"; without those that have none.
      patients: share of the lungs that is involved, and where.
      auc: of the share involved as a score of an image, for the positive class, beside that of the
        probability; None of a network that only segments, whose probability is this share, and
        where all images are of one class.
      involvement_error: size of the error of that share, mean over the patients whose true masks
        are known; None if there are none.
      grade_agreement: share of these patients who get the grade of their true masks; None likewise.
      overlays: slices with the contours of predicted masks.
    """

    scores: Mapping[str, SegmentationScores] = field(default_factory=dict)
    patients: Sequence[PatientInvolvement] = ()
    auc: Score | None = None
    involvement_error: Score | None = None
    grade_agreement: Score | None = None
    overlays: Sequence[OutlinedSlice] = field(default=(), metadata={"json": False})

    @property
    def grades(self) -> dict[str, dict[str, int]]:
        """Patients of each grade, "as predicted" and, if all have them, "by the true masks"."""
        columns = {"as predicted": [each.predicted.grade for each in self.patients]}
        truth = [each.truth.grade for each in self.patients if each.truth]
        if len(truth) == len(self.patients):
            columns["by the true masks"] = truth
        return {
            name: {grade: grades.count(grade) for grade in GRADES}
            for name, grades in columns.items()
        }
