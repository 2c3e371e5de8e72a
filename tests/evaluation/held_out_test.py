"""A test is one: the data set fits the network, and the network has not learned from it."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from jaxcovid.data.identity import Identities
from jaxcovid.data.labels import Task
from jaxcovid.evaluation.held_out import check_fits, check_held_out


def network(*, used=None, kind="binary", outputs=("COVID-19",)):
    own = SimpleNamespace(name="ct_cov19", digest="1", modality="CT")
    return SimpleNamespace(
        workdir="runs/a",
        task=Task(kind, outputs),
        run=SimpleNamespace(dataset=own),
        trained_on=lambda: used,
    )


def dataset(name="covid_ct", *, digest="1", modality="CT", classes=("COVID-19",), findings=()):
    images = identities(1, 2, 3)
    return SimpleNamespace(
        name=name,
        digest=digest,
        modality=modality,
        class_names=classes,
        finding_names=findings,
        identities=lambda: {"test": images, "validation": images},
    )


def identities(*hashes):
    """Images of these hashes, of patients who are not known."""
    values = np.array(hashes, np.uint64)
    return Identities(values, values + np.uint64(100), np.zeros_like(values))


def test_a_data_set_that_does_not_fit_is_refused():
    check_fits(dataset(), network())
    for other, message in (
        (dataset(modality="X-ray"), "holds X-ray images, this network was trained on CT"),
        (dataset(classes=("normal",)), "no label for COVID-19.*it labels normal"),
    ):
        with pytest.raises(ValueError, match=message):
            check_fits(other, network())
    films = network(kind="multilabel", outputs=("Edema", "Mass"))
    with pytest.raises(ValueError, match="no label for Mass"):
        check_fits(dataset(classes=(), findings=("Edema",)), films)


def test_a_data_set_that_has_changed_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        check_fits(dataset("ct_cov19", digest="2"), network())
    assert "has changed since training, or was prepared anew" in caplog.text


def test_images_that_were_trained_on_are_refused_or_marked(caplog):
    used = {"train": [identities(7, 8)], "validation": [identities(3)]}
    message = "1 of 3 images of the test split of covid_ct were in the training or validation"
    with pytest.raises(ValueError, match=message):
        check_held_out(dataset(), "test", network(used=used), allow_seen=False)
    with caplog.at_level(logging.WARNING):
        seen = check_held_out(dataset(), "test", network(used=used), allow_seen=True)
    assert (seen.images, seen.total) == (1, 3)
    assert "the report says so" in caplog.text
    # Its own validation split chose the checkpoint; that is not training.
    own = dataset("ct_cov19")
    assert not check_held_out(own, "validation", network(used=used), allow_seen=False)
    with pytest.raises(ValueError, match="1 of 3 images"):
        check_held_out(dataset(), "validation", network(used=used), allow_seen=False)
