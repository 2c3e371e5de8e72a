"""An audit of a prepared data set: all checks, and the worst verdict."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxcovid.audits.check import FAILED, PASSED, WARNING, Check
from jaxcovid.audits.confounders import check_confounders
from jaxcovid.audits.duplicates import Pair, check_duplicates, find_pairs
from jaxcovid.audits.items import Item, read_items
from jaxcovid.audits.splits import check_splits
from jaxcovid.data.datasets import Dataset

FILE = "audit.json"


@dataclasses.dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
      dataset: name of the data set.
      digest: of the data set, 64 hexadecimal digits.
      positive: the class or finding that was separated from the rest.
      checks: every check, with its verdict.
      items: all images.
      pairs: suspected pairs, as indices of items.
    """

    dataset: str
    digest: str
    positive: str
    checks: tuple[Check, ...]
    items: Sequence[Item] = dataclasses.field(repr=False)
    pairs: Sequence[Pair] = dataclasses.field(repr=False)

    @property
    def verdict(self) -> str:
        """The worst of all checks: `failed`, `warning` or `passed`."""
        verdicts = {check.verdict for check in self.checks}
        return next(verdict for verdict in (FAILED, WARNING, PASSED) if verdict in verdicts)

    def suspected_pairs(self) -> list[Pair]:
        """Pairs of two splits or of two patients; neighbouring slices of one are no news."""
        return [
            pair
            for pair in self.pairs
            if self.items[pair.first].split != self.items[pair.second].split
            or self.items[pair.first].record["patient"] != self.items[pair.second].record["patient"]
        ]

    def as_dict(self, *, version: str, report: str) -> dict[str, Any]:
        """The content of `audit.json`.

        Args:
          version: of this package.
          report: path of the page.
        """
        return {
            "dataset": self.dataset,
            "digest": self.digest,
            "positive": self.positive,
            "version": version,
            "verdict": self.verdict,
            "report": report,
            "checks": [dataclasses.asdict(check) for check in self.checks],
        }


def audit_dataset(dataset: Dataset, *, positive: str | None = None) -> Audit:
    """Audits a data set; every image is read once.

    Args:
      dataset: prepared, with the splits train and test.
      positive: the class or finding to separate from the rest; None is COVID-19, else pneumonia,
        else the first.

    Raises:
      ValueError: no such class or finding.
    """
    positive = _positive([*dataset.class_names, *dataset.finding_names], positive)
    items = read_items(dataset)
    pairs = find_pairs(items)
    return Audit(
        dataset=dataset.name,
        digest=dataset.digest,
        positive=positive,
        checks=(
            *check_splits(dataset, items),
            *check_duplicates(dataset, items, pairs),
            check_confounders(dataset, items, positive=positive),
        ),
        items=items,
        pairs=pairs,
    )


def _positive(names: Sequence[str], wanted: str | None) -> str:
    """The name that is wanted, else the usual one.

    Raises:
      ValueError: the data set has no such class or finding.
    """
    if wanted and wanted not in names:
        raise ValueError(f"no class or finding {wanted!r}; there are {', '.join(names)}")
    usual = [name for name in ("COVID-19", "pneumonia", "Pneumonia") if name in names]
    return wanted or [*usual, *names][0]
