"""A check and its verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PASSED, WARNING, FAILED, NOT_TOLD = "passed", "warning", "failed", "not told"


@dataclass(frozen=True)
class Check:
    """One question that an audit asks, and the answer.

    Attributes:
      name: short, the same in every audit.
      verdict: `passed`, `warning` (know it when you read a score), `failed` (a score on this split
        cannot be believed) or `not told` (the data set does not say).
      summary: the answer in a sentence, with its numbers.
      rows: the cases in full, one mapping of the same keys each.
    """

    name: str
    verdict: str
    summary: str
    rows: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
