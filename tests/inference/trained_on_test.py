"""A network answers for all images that it, its frozen parts and its first weights have seen."""

import pathlib
import shutil
from types import SimpleNamespace

import numpy as np

from jaxcovid.data import identity
from jaxcovid.data.identity import Identities
from jaxcovid.inference.trained_on import carry_initial, trained_on

RUN = pathlib.Path(__file__).parents[1] / "golden" / "workdir" / "run.json"


def workdir(folder, *images):
    """A workdir that was trained on images of these hashes."""
    folder.mkdir(parents=True)
    shutil.copy(RUN, folder)
    hashes = np.array(images, np.uint64)
    identities = Identities(hashes, hashes, hashes)
    identity.save(folder / identity.TRAINED_ON_FILE, {"train": identities})
    return folder


def images_of(folder, *parts):
    used = trained_on(folder, SimpleNamespace(parts=dict.fromkeys(parts)))
    return sorted(int(image) for training in used["train"] for image in training.images)


def test_the_trainings_of_the_first_weights_count_however_long_ago(tmp_path):
    first, second, third = (workdir(tmp_path / name, i) for i, name in enumerate("abc"))
    carry_initial(second, first)
    carry_initial(third, second)
    shutil.rmtree(first)
    shutil.rmtree(second)
    assert images_of(third) == [0, 1, 2]


def test_those_of_a_part_count_too(tmp_path):
    whole = workdir(tmp_path / "whole", 5)
    part = workdir(whole / "parts" / "part1", 6)
    carry_initial(part, workdir(tmp_path / "before", 7))
    assert images_of(whole, "part1") == [5, 6, 7]
    carry_initial(workdir(tmp_path / "next", 8), part)
    assert images_of(tmp_path / "next") == [6, 7, 8]


def test_a_training_that_does_not_say_is_warned_of(tmp_path, caplog):
    old = workdir(tmp_path / "old", 1)
    (old / identity.TRAINED_ON_FILE).unlink()
    new = workdir(tmp_path / "new", 2)
    carry_initial(new, old)
    assert images_of(new) == [2]
    assert f"{new}/init/0 does not say which images it was trained on" in caplog.text
