"""Several prepared data sets as one, "covid_ct+sars_cov_2_ct": the sources of a training."""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from absl import logging
from etils import epath

from jaxcovid.data import identity, image_cache
from jaxcovid.data.datasets import SEPARATOR, Dataset, Record
from jaxcovid.data.joined_source import JoinedSource

FOLDER = "joined"  # in the folder of data sets: what belongs to no single one of them


@dataclasses.dataclass(frozen=True)
class JoinedDataset(Dataset):
    """Several prepared data sets as one; see `Dataset` for what is not said here.

    Attributes:
        members: In the order of the name.
        left_out: Ids of records of the training split that are not used, by their positions in
            that of all members; the members' own counts are without them, except of patients.
    """

    members: tuple[Dataset, ...] = ()
    left_out: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def source(self, split: str) -> JoinedSource:
        """Opens one split of all members that have it.

        Raises:
            ValueError: If none has it.
        """
        self._check_split(split)
        members = self.members_with(split)
        places = {name: label for label, name in enumerate(self.class_names)}
        return JoinedSource(
            {member.name: member.source(split) for member in members},
            labels={m.name: [places[name] for name in m.class_names] for m in members},
            findings=self.finding_names,
            left_out=list(self.left_out) if split == "train" else (),
        )

    def identities(self) -> dict[str, identity.Identities]:
        """Hashes of the images and patients of each split, those of the members.

        Raises:
            ValueError: If a file of them is damaged.
            OSError: If it cannot be read.
        """
        of_members = [member.identities() for member in self.members]
        joined = {
            split: identity.join([each[split] for each in of_members if split in each])
            for split in self.split_sizes
        }
        if self.left_out:
            joined["train"] = joined["train"].without(list(self.left_out))
        return joined

    def without(self, positions: Sequence[int]) -> "JoinedDataset":
        """The same data set, some records of its training split not used.

        Args:
            positions: Of these records; nothing was left out before.

        Raises:
            ValueError: If a member has nothing left to train on.
        """
        source = self.source("train")
        records = [source[position] for position in positions]
        members = [
            _counted_without(m, [r for r in records if r["source"] == m.name], self.class_names)
            for m in self.members
        ]
        if empty := [member.name for member in members if member.split_sizes.get("train") == 0]:
            raise ValueError(f"all training images of {' and '.join(empty)} are left out")
        return dataclasses.replace(
            join(members, self.directory.parent.parent),
            left_out={p: record["id"] for p, record in zip(positions, records, strict=True)},
        )

    def with_cached_images(
        self, sources: Mapping[str, JoinedSource], *, cache: str
    ) -> dict[str, JoinedSource]:
        """See `image_cache.cache_images`: every member keeps the images of its own records.

        Args:
            sources: Of some splits.
            cache: Where decoded images are kept.

        Raises:
            ValueError: There is too little free memory, or a folder is in an object store.
            OSError: The file of `disk` cannot be written.
        """
        cached: dict[str, dict[str, Sequence[Record]]] = {split: {} for split in sources}
        for member in self.members:
            own = {
                split: source.sources[member.name]
                for split, source in sources.items()
                if member.name in source.sources
            }
            kept = image_cache.cache_images(
                own, cache=cache, folder=member.directory, digest=member.digest
            )
            for split, source in kept.items():
                cached[split][member.name] = source
        return {split: source.with_sources(cached[split]) for split, source in sources.items()}

    def members_with(self, split: str) -> list[Dataset]:
        """The members that have a split."""
        return [member for member in self.members if split in member.split_sizes]


def join(members: Sequence[Dataset], data_dir: epath.PathLike) -> JoinedDataset:
    """Makes one data set of several.

    Class names are joined by name. Of findings only those remain that all members label, as a film
    of another says nothing about the others.

    Args:
        members: At least two.
        data_dir: Where data sets are kept.

    Raises:
        ValueError: If members hold the same images, images of two modalities, classes and
            findings, or class names that may or may not mean the same.
    """
    _check_members(members)
    name = SEPARATOR.join(member.name for member in members)
    class_names = tuple(dict.fromkeys(n for member in members for n in member.class_names))
    findings = set.intersection(*(set(member.finding_names) for member in members))
    lines = "\n".join(f"{member.name} {member.digest}" for member in members)
    counts = _sum_by_split(members, lambda m: m.class_counts, [*class_names, *sorted(findings)])
    return JoinedDataset(
        name=name,
        directory=epath.Path(data_dir) / FOLDER / name.replace("/", "."),
        class_names=class_names,
        finding_names=tuple(sorted(findings)),
        masks=tuple(dict.fromkeys(mask for member in members for mask in member.masks)),
        digest=hashlib.sha256(lines.encode()).hexdigest(),
        citation="\n".join(dict.fromkeys(m.citation for m in members if m.citation)),
        description="\n\n".join(f"{member.name}: {member.description}" for member in members),
        split_sizes=dict(sum((Counter(member.split_sizes) for member in members), Counter())),
        modality=next((member.modality for member in members if member.modality), ""),
        window=members[0].window,
        hu_offset=members[0].hu_offset,
        prepared_from={member.name: member.prepared_from for member in members},
        class_counts=counts,
        finding_counts=_sum_of_findings(members, sorted(findings)),
        published_images=0,
        patient_counts=dict(sum((Counter(m.patient_counts) for m in members), Counter())),
        crossing_patients=sum(member.crossing_patients for member in members),
        members=tuple(members),
    )


def members_of(dataset: Dataset) -> tuple[Dataset, ...]:
    """The data sets that one is made of: itself, unless it is joined."""
    return dataset.members if isinstance(dataset, JoinedDataset) else (dataset,)


def member_names(name: str) -> tuple[str, ...]:
    """The names of the data sets of which a name is made."""
    return tuple(name.split(SEPARATOR))


def left_out_ids(dataset: Dataset) -> tuple[str, ...]:
    """Ids of the training images that are not used; none of a data set that is not joined."""
    return tuple(dataset.left_out.values()) if isinstance(dataset, JoinedDataset) else ()


def _counted_without(
    member: Dataset, records: Sequence[Record], class_names: Sequence[str]
) -> Dataset:
    """A member whose sizes and counts are without some joined records of its training split."""
    if not records:
        return member
    sizes = {**member.split_sizes, "train": member.split_sizes["train"] - len(records)}
    classes = Counter(member.class_counts["train"])
    findings = {k: Counter(v) for k, v in member.finding_counts.get("train", {}).items()}
    for record in records:
        if "label" in record:
            classes[class_names[record["label"]]] -= 1
        for name, value in record.get("findings", {}).items():
            findings[name][str(value)] -= 1
            classes[name] -= value == 1
    counts = {"class_counts": {**member.class_counts, "train": dict(classes)}}
    if findings:
        train = {name: dict(counter) for name, counter in findings.items()}
        counts["finding_counts"] = {**member.finding_counts, "train": train}
    return dataclasses.replace(member, split_sizes=sizes, **counts)


def _check_members(members: Sequence[Dataset]) -> None:
    """Refuses members that cannot be joined, see `join`."""
    scopes = Counter(identity.scope_of(member.name) for member in members)
    if repeated := [scope for scope, count in scopes.items() if count > 1]:
        names = " and ".join(m.name for m in members if identity.scope_of(m.name) == repeated[0])
        raise ValueError(f"{names} hold the same images; name {repeated[0]} once")
    modalities = {member.modality: member.name for member in members if member.modality}
    if len(modalities) > 1:
        listed = " and ".join(f"{name} ({modality})" for modality, name in modalities.items())
        raise ValueError(f"images of two modalities: {listed}; name data sets of one")
    if len({bool(member.class_names) for member in members}) > 1:
        listed = ", ".join(
            f"{m.name} ({'classes' if m.class_names else 'findings'})" for m in members
        )
        raise ValueError(f"some have classes, some findings: {listed}; name data sets of one kind")
    if not members[0].class_names and not set.intersection(
        *(set(m.finding_names) for m in members)
    ):
        raise ValueError(f"{' and '.join(m.name for m in members)} label no finding in common")
    _check_class_names(members)
    if len({(member.window, member.hu_offset) for member in members}) > 1:
        logging.warning(
            "The data sets were seen through different windows; those of %s (centre and width %s, "
            "offset %s) serve for predictions",
            members[0].name,
            members[0].window,
            members[0].hu_offset,
        )


def _check_class_names(members: Iterable[Dataset]) -> None:
    """Refuses names of classes that differ in case, blanks or punctuation alone."""
    seen: dict[str, tuple[str, str]] = {}  # by what is left of a name
    for member in members:
        for name in member.class_names:
            first, owner = seen.setdefault(
                re.sub(r"[\W_]", "", name).casefold(), (name, member.name)
            )
            if first != name:
                raise ValueError(
                    f"{owner} has a class {first!r} and {member.name} a class {name!r}, which may "
                    f"mean the same; prepare the folder data set anew with the label {first!r} if "
                    "they do, else with another name"
                )


def _sum_by_split(
    members: Sequence[Dataset],
    counts: Callable[[Dataset], Mapping[str, Mapping[str, int]]],
    names: Sequence[str],
) -> dict[str, dict[str, int]]:
    """Adds up counts by split and name, 0 of names that a member does not have."""
    splits = dict.fromkeys(split for member in members for split in counts(member))
    return {
        split: {
            name: sum(counts(member).get(split, {}).get(name, 0) for member in members)
            for name in names
        }
        for split in splits
    }


def _sum_of_findings(
    members: Sequence[Dataset], findings: Sequence[str]
) -> dict[str, dict[str, dict[str, int]]]:
    """Adds up `finding_counts` of the findings that all members label."""
    splits = dict.fromkeys(split for member in members for split in member.finding_counts)
    return {
        split: {
            name: dict(
                sum(
                    (Counter(m.finding_counts.get(split, {}).get(name, {})) for m in members),
                    Counter(),
                )
            )
            for name in findings
        }
        for split in splits
    }
