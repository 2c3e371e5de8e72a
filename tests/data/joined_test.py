import dataclasses
import pickle

import numpy as np
import pytest
from source_trees import prepare_source

from jaxcovid.data import image_cache
from jaxcovid.data.joined import join, member_names
from jaxcovid.data.opening import open_dataset

NAME = "folder/a+folder/b"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Folder `a` of two classes, and `b` with masks, of three."""
    root, data = tmp_path_factory.mktemp("trees"), tmp_path_factory.mktemp("data")
    prepare_source("a", data, root, seed=1)
    counts = {"train": {"COVID-19": 3, "pneumonia": 4}, "test": {"normal": 2, "COVID-19": 5}}
    prepare_source("b", data, root, seed=2, counts=counts, masks=True)
    return data


def test_one_name_opens_what_it_did(sources):
    assert type(open_dataset("folder/a", sources)).__name__ == "Dataset"
    assert member_names(NAME) == ("folder/a", "folder/b")


def test_classes_sizes_and_masks_are_those_of_all(sources):
    dataset = open_dataset(NAME, sources)
    a, b = dataset.members
    assert dataset.name == NAME
    assert dataset.class_names == ("COVID-19", "normal", "pneumonia")
    assert dataset.masks == ("lungs", "lesion")
    assert dataset.split_sizes == {"train": 19, "validation": 6, "test": 13}
    assert dataset.class_counts["train"] == {"COVID-19": 9, "normal": 6, "pneumonia": 4}
    assert dataset.patient_counts["train"] == a.patient_counts["train"] + b.patient_counts["train"]
    with pytest.raises(ValueError, match="no split 'dev'"):
        dataset.source("dev")


def test_each_record_can_be_traced_to_its_own_data_set(sources):
    dataset = open_dataset(NAME, sources)
    for split in dataset.split_sizes:
        source = pickle.loads(pickle.dumps(dataset.source(split)))
        assert len(source) == dataset.split_sizes[split]
        number = 0
        for member in dataset.members_with(split):
            for own in member.source(split):
                joined = source[number]
                assert joined["source"] == source.member_of(number) == member.name
                assert joined["id"] == f"{member.name}:{own['id']}"
                assert joined["patient"] == f"{member.name}:{own['patient']}"
                label = dataset.class_names[joined["label"]]
                assert label == member.class_names[own["label"]]
                assert joined["image"] == own["image"]
                assert joined.get("lung_mask", b"") == own.get("lung_mask", b"")
                number += 1
        with pytest.raises(IndexError):
            source[number]


def test_hashes_are_those_of_the_members_in_the_order_of_the_records(sources):
    dataset = open_dataset(NAME, sources)
    joined = dataset.identities()
    a, b = (member.identities() for member in dataset.members)
    assert joined.keys() == dataset.split_sizes.keys()
    np.testing.assert_array_equal(joined["train"].ids, [*a["train"].ids, *b["train"].ids])
    np.testing.assert_array_equal(joined["validation"].images, a["validation"].images)


def test_the_digest_depends_on_the_members_and_their_order(sources):
    dataset, again = (open_dataset(NAME, sources) for _ in range(2))
    assert dataset.digest == again.digest
    assert open_dataset("folder/b+folder/a", sources).digest != dataset.digest
    a, b = dataset.members
    changed = dataclasses.replace(b, digest="0" * 64)
    assert join([a, changed], sources).digest != dataset.digest


def test_what_cannot_be_joined_is_refused(sources):
    a, b = open_dataset(NAME, sources).members

    def refused(message, *members):
        with pytest.raises(ValueError, match=message):
            join(members, sources)

    def like(name, **changes):
        return dataclasses.replace(b, name=name, **changes)

    refused("folder/a and folder/a hold the same images; name folder/a once", a, a)
    refused("hold the same images", like("covid_ct"), like("covid_ct/gray320"))
    of = {"modality": "CT"}, {"modality": "X-ray"}
    refused(r"x \(CT\) and y \(X-ray\)", like("x", **of[0]), like("y", **of[1]))
    findings = {"class_names": (), "finding_names": ("Edema", "Mass")}
    refused(r"a \(classes\), y \(findings\)", a, like("y", **findings))
    other = {**findings, "finding_names": ("Fracture",)}
    refused("x and y label no finding in common", like("x", **findings), like("y", **other))
    for name in ("covid-19", "COVID 19", "Normal"):
        refused(f"a class '{name}', which may mean the same", a, like("y", class_names=(name,)))


def test_findings_are_those_that_all_members_label(sources):
    a, _ = open_dataset(NAME, sources).members
    members = [
        dataclasses.replace(
            a,
            name=name,
            class_names=(),
            finding_names=names,
            finding_counts={"train": {n: {"1": 2, "-1": 1} for n in names}},
            class_counts={"train": dict.fromkeys(names, 2)},
        )
        for name, names in (("x", ("Edema", "Mass")), ("y", ("Mass",)))
    ]
    joined = join(members, sources)
    assert joined.finding_names == ("Mass",)
    assert joined.finding_counts == {"train": {"Mass": {"1": 4, "-1": 2}}}
    assert joined.class_counts == {"train": {"Mass": 4}}


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_every_member_keeps_its_decoded_images(cache, sources):
    dataset = open_dataset(NAME, sources)
    plain = {split: dataset.source(split) for split in ("train", "validation")}
    cached = dataset.with_cached_images(plain, cache=cache)
    for split, source in plain.items():
        assert len(cached[split]) == len(source)
        for i in (0, len(source) - 1):
            record = dict(cached[split][i])
            assert record.pop("gray").shape == (70, 70)
            assert record == source[i]
    if cache == "disk":
        for member in dataset.members:
            name = image_cache.file_name("train", member.digest)
            assert (member.directory / name).exists()
    assert dataset.with_cached_images(plain, cache="none")["train"][0] == plain["train"][0]
