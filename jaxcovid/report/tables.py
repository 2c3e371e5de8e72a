"""Predictions as CSV, with as many digits as it takes to read the same numbers back."""

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np

from jaxcovid.metrics.predictions import Predictions


def screening_csv(predictions: Predictions) -> bytes:
    """Columns id, patient, label (1 = positive class) and probability.

    With k > 1 outputs also the probability of each, and the class.
    """
    header = ["id", "patient", "label", "probability"]
    several = len(predictions.outputs) > 1
    if several:
        header += [f"probability_{name.replace(' ', '_')}" for name in predictions.outputs]
        header.append("class")
    names, rows = np.array(predictions.outputs), []
    for name, patient, target, probability in zip(
        predictions.ids,
        predictions.patients,
        predictions.targets,
        predictions.probabilities,
        strict=True,
    ):
        row = [name, patient, int(target[0]), str(probability[0])]
        if several:
            row += [*map(str, probability), "|".join(names[target])]
        rows.append(row)
    return _csv(header, rows)


def findings_csv(predictions: Predictions) -> bytes:
    """Columns id, patient, and for each finding its label (empty if unknown) and probability."""
    names = [name.replace(" ", "_") for name in predictions.outputs]
    columns = [f"{kind}_{name}" for name in names for kind in ("label", "probability")]
    rows = []
    for name, patient, *arrays in zip(
        predictions.ids,
        predictions.patients,
        predictions.targets,
        predictions.counted,
        predictions.probabilities,
        strict=True,
    ):
        row: list[object] = [name, patient]
        for target, known, probability in zip(*arrays, strict=True):
            row += [int(target) if known else "", str(probability)]
        rows.append(row)
    return _csv(["id", "patient", *columns], rows)


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
