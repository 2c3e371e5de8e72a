"""The records of several prepared data sets, one after another; see `joined`."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from jaxcovid.data.datasets import Record

_IN_MEMBER = ("id", "patient", "volume")  # features that name something within a member
_UNKNOWN = {str: "", bytes: b"", int: -1}  # value of a feature that another member has, by type


class JoinedSource(Sequence[Record]):
    """The records of one split of all members, one member after another.

    A record is that of its member, see `datasets.Source`, with the member's name as `source` and
    before its `id`, `patient` and `volume`, and with `label` as an index into the joined class
    names. It has the features of all members: those that its own lacks are empty, or -1.
    """

    def __init__(
        self,
        sources: Mapping[str, Sequence[Record]],
        *,
        labels: Mapping[str, Sequence[int]],
        findings: Collection[str],
        left_out: Sequence[int] = (),
    ) -> None:
        """Joins the records of several members.

        Args:
            sources: The records of each member by its name.
            labels: For each member the joined label of each of its own.
            findings: Names of the findings that are kept.
            left_out: Positions among all records of those that are not used.
        """
        self.sources = dict(sources)
        self._labels, self._findings = labels, frozenset(findings)
        self._names = list(self.sources)
        self._ends = np.cumsum([len(source) for source in self.sources.values()])
        self._positions = np.delete(np.arange(self._ends[-1]), list(left_out))
        self._unknown = {
            name: _UNKNOWN[type(value)]
            for source in self.sources.values()
            for name, value in source[0].items()
            if type(value) in _UNKNOWN
        }

    def with_sources(self, sources: Mapping[str, Sequence[Record]]) -> "JoinedSource":
        """The same records, read from other sources, such as `image_cache.CachedSource`."""
        unused = np.setdiff1d(np.arange(self._ends[-1]), self._positions).tolist()
        return JoinedSource(sources, labels=self._labels, findings=self._findings, left_out=unused)

    def member_of(self, index: int) -> str:
        """Name of the member that a record is of; reads nothing."""
        return self._names[self._place(index)[0]]

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> Record:
        member, own = self._place(index)
        name = self._names[member]
        record = self.sources[name][own]
        own_names = {key: f"{name}:{record[key]}" for key in _IN_MEMBER if record.get(key)}
        joined = {**self._unknown, **record, **own_names, "source": name}
        if "findings" in record:
            values = record["findings"].items()
            return {**joined, "findings": {k: v for k, v in values if k in self._findings}}
        return {**joined, "label": self._labels[name][record["label"]]}

    def _place(self, index: int) -> tuple[int, int]:
        """The number of a record's member, and its position there."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        position = int(self._positions[index])
        member = int(np.searchsorted(self._ends, position, side="right"))
        return member, position - (int(self._ends[member - 1]) if member else 0)
