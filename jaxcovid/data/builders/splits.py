"""Splits of images into train, validation and test."""

import collections
from collections.abc import Sequence

import numpy as np
from sklearn import model_selection

from jaxcovid.data.builders.tables import Row

_FOLDS = 10


def split_by_patient(rows: Sequence[Row], *, test_tenths: int) -> dict[str, list[Row]]:
    """Distributes patients over train, validation (a tenth) and test, the same at each call.

    Every split gets about the same mixture of classes; films with several findings count as two
    classes, with and without pneumonia.

    Args:
        rows: With `patient`, and `label` or `findings`.
        test_tenths: Tenths of the images that make the test split, about.

    Returns:
        The rows of train, validation and test, in their order.

    Raises:
        ValueError: If a class has fewer than ten patients.
    """
    patients = collections.defaultdict(set)
    labels = [
        row["label"] if "label" in row else f"pneumonia {row['findings']['Pneumonia']}"
        for row in rows
    ]
    for label, row in zip(labels, rows, strict=True):
        patients[label].add(row["patient"])
    for label, members in sorted(patients.items()):
        if len(members) < _FOLDS:
            train = _FOLDS - 1 - test_tenths
            raise ValueError(
                f"class {label!r} has {len(members)} patients, to split {train}0/10/{test_tenths}0 "
                f"at least {_FOLDS} are needed; give a CSV with a column split"
            )
    folds = model_selection.StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    groups = [row["patient"] for row in rows]
    fold_of = np.zeros(len(rows), int)
    for fold, (_, held_out) in enumerate(folds.split(rows, labels, groups)):
        fold_of[held_out] = fold
    names = (_FOLDS - 1 - test_tenths) * ["train"] + ["validation"] + test_tenths * ["test"]
    split: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row, fold in zip(rows, fold_of, strict=True):
        split[names[fold]].append(row)
    return split


def leave_site_out(rows: Sequence[Row], site: str) -> dict[str, list[Row]]:
    """Tests on all images of a site; of the patients of other sites a tenth is for validation.

    Args:
        rows: With `patient`, `label` and `site`.
        site: The one that is left out; its patients are in no other split.

    Raises:
        ValueError: If a class is missing there, or has fewer than ten patients elsewhere.
    """
    test = [row for row in rows if row["site"] == site]
    classes = {row["label"] for row in rows}
    if missing := sorted(classes - {row["label"] for row in test}):
        raise ValueError(f"the {len(test)} images of {site} have no {' and no '.join(missing)}")
    tested = {row["patient"] for row in test}
    rest = [row for row in rows if row["patient"] not in tested]
    if missing := sorted(classes - {row["label"] for row in rest}):
        raise ValueError(f"without {site} there is no image of {' and of '.join(missing)}")
    return {**split_by_patient(rest, test_tenths=0), "test": test}


def split_by_film(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Splits films 60/10/30 at random, each part with the same mixture of classes.

    Patients cross the splits.
    """
    share = {"random_state": 0, "stratify": [row["label"] for row in rows]}
    rest, test = model_selection.train_test_split(list(rows), test_size=0.3, **share)
    share["stratify"] = [row["label"] for row in rest]
    train, validation = model_selection.train_test_split(rest, test_size=1 / 7, **share)
    return {"train": train, "validation": validation, "test": test}
