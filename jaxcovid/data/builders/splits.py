"""Splits of images into train, validation and test, no patient in two of them."""

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
