"""A score with its interval, and how the interval was made; `bootstrap` and `ratios` make them."""

import dataclasses

import numpy as np

LEVEL = 0.95
METHOD = (
    "95 % interval: logit scale, standard error from a bootstrap over patients; at 0 or 1 the "
    "exact one-sided bound for the number of patients"
)


@dataclasses.dataclass(frozen=True)
class Score:
    """A score and its 95 % interval.

    Attributes:
      value: NaN where it is 0/0.
      low: lower bound; NaN where the value is, or where the resamples do not differ.
      high: upper bound, as the lower one.
      left_out: resamples without the score, because it is 0/0 there; None of a difference.
    """

    value: float
    low: float
    high: float
    left_out: int | None = None

    @property
    def has_interval(self) -> bool:
        """False where the interval is undefined."""
        return not np.isnan(self.low)

    def text(self, digits: str = ".3f") -> str:
        """The value and its interval, if it has one: "0.812 (0.700 to 0.901)"."""
        if not self.has_interval:
            return f"{self.value:{digits}}"
        return f"{self.value:{digits}} ({self.low:{digits}} to {self.high:{digits}})"


@dataclasses.dataclass(frozen=True)
class IntervalMethod:
    """How intervals were computed.

    Attributes:
      method: in words.
      level: coverage, 0 to 1.
      resamples: of patients.
      seed: of the resamples.
    """

    method: str = METHOD
    level: float = LEVEL
    resamples: int = 2000
    seed: int = 0
