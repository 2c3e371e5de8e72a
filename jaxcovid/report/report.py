"""Writes what an evaluation found: numbers for programs, one page for people.

A folder holds `predictions.csv`, `metrics.json`, the figures, `model_card.md` and `report.html`,
which carries its pictures and style inside and opens without a network.
`metrics.json` is written last: where it stands, the rest is complete.
"""

import csv
import io
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcovid.metrics import scores as metrics_lib
from jaxcovid.report import figures, pages
from jaxcovid.runtime import files

_WHY_UNDEFINED = {
    "auc": "one class is absent",
    "auc_macro": "a class is absent",
    "precision": "nothing is called positive (TP + FP = 0)",
    "recall": "nothing is positive (TP + FN = 0)",
    "f": "nothing is positive or called positive (TP + FP + FN = 0)",
    "specificity": "nothing is negative (TN + FP = 0)",
}


def write_report(
    directory: Path,
    *,
    split: str,
    predictions: metrics_lib.Predictions,
    thresholds: Mapping[str, float] | None,
    run: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    gallery: Mapping[str, Any] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluates a split and writes its folder.

    Args:
      directory: made if it is missing; files of an earlier report are replaced.
      split: name of the split.
      predictions: n images.
      thresholds: chosen on validation; 'youden' is needed. None for a network for findings, which
        has an AUC for each and calls nothing.
      run: facts of the run. 'dataset' and 'digest' stand under the data, 'commands' (a list) under
        how to reproduce, 'config' (nested) in a table of its own, everything else ('step',
        'version', ...) under what was run.
      more: what else was found: 'audit', 'calibration', 'subgroups', 'heatmaps', 'controls',
        'against', 'runs' and 'published'; see `scored` and `evaluation.published`. None has no
        section.
      curves: ROC curves of other runs: name -> (positive bool [n], score float [n]).
      gallery: arguments of `figures.heatmap_gallery` after the path.
      resamples: bootstrap resamples of patients.
      seed: of the resamples.

    Returns:
      The content of `metrics.json`: {'split', what `metrics.evaluate` or `evaluate_findings`
      returns, 'run', 'undefined' (path of a null -> why)}; undefined numbers are None.

    Raises:
      ValueError: thresholds without 'youden', or a gallery that does not fit.
      TypeError: a value of run that has no JSON form.
      OSError: the folder or a file cannot be written.
    """
    if files.is_remote(directory):  # figures are drawn into files of this machine
        options = {k: v for k, v in locals().items() if k != "directory"}
        with tempfile.TemporaryDirectory() as local:
            metrics = write_report(Path(local), **options)
            for path in Path(local).iterdir():
                (directory / path.name).write_bytes(path.read_bytes())
        return metrics
    facts = _plain(run, "run")
    bootstrap = {"resamples": resamples, "seed": seed}
    if thresholds is None:
        scores = metrics_lib.evaluate_findings(predictions, **bootstrap)
    else:
        scores = metrics_lib.evaluate(predictions, thresholds=thresholds, **bootstrap)
    found = {name: value for name, value in (more or {}).items() if value is not None}
    scores |= found
    metrics = {"split": split, **_plain(scores, "metrics"), "run": facts}
    metrics["undefined"] = {"/".join(keys): _why_undefined(keys) for keys in _nulls(scores, ())}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for outdated in ("metrics.json", "heatmaps.png", "calibration.png"):
            (directory / outdated).unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write the report's folder ({error.strerror}); make it writable or give "
            "another one",
            str(directory),
        ) from error

    table = _findings_csv(predictions) if thresholds is None else _predictions_csv(predictions)
    files.write_atomically(directory / "predictions.csv", table)
    if thresholds is None:
        _findings_roc(directory / "roc.png", predictions, scores, split)
    else:
        _screening_roc(directory / "roc.png", predictions, scores, split, curves or {})
    pictures = {"roc": directory / "roc.png"}
    if thresholds is not None:
        pictures["pr"] = directory / "pr.png"
        figures.precision_recall_figure(
            pictures["pr"],
            predictions.targets[:, 0],
            predictions.probabilities[:, 0],
            average_precision=scores["average_precision"],
            title=f"{predictions.outputs[0]} against the rest, {split}",
        )
    if "calibration" in found:
        pictures["calibration"] = directory / "calibration.png"
        figures.reliability_figure(
            pictures["calibration"],
            found["calibration"]["reliability"],
            title=f"Calibration, {split}",
        )
    if gallery is not None:
        pictures["heatmaps"] = directory / "heatmaps.png"
        figures.heatmap_gallery(pictures["heatmaps"], **gallery)
    contents = {name: path.read_bytes() for name, path in pictures.items()}
    page = _render("report.html.jinja", metrics, contents)
    files.write_atomically(directory / "report.html", page.encode())
    card = _render("model_card.md.jinja", metrics, {})
    files.write_atomically(directory / "model_card.md", card.encode())
    content = json.dumps(metrics, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    files.write_atomically(directory / "metrics.json", content.encode())
    return metrics


def _screening_roc(
    path: Path,
    predictions: metrics_lib.Predictions,
    scores: Mapping[str, Any],
    split: str,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    patients = metrics_lib.per_patient(predictions)
    figures.roc_figure(
        path,
        {
            "per image": (predictions.targets[:, 0], predictions.probabilities[:, 0]),
            "per patient": (patients.targets[:, 0], patients.probabilities[:, 0]),
            **curves,
        },
        intervals={"per image": scores["auc"], "per patient": scores["per_patient"]["auc"]},
        thresholds={name: point["threshold"] for name, point in scores["operating_points"].items()},
        title=f"{predictions.outputs[0]} against the rest, {split}",
    )


def _findings_roc(
    path: Path, predictions: metrics_lib.Predictions, scores: Mapping[str, Any], split: str
) -> None:
    arrays = predictions.targets, predictions.probabilities, predictions.counted
    columns = zip(*(array.T for array in arrays), strict=True)
    figures.roc_figure(
        path,
        {
            name: (target[of], probability[of])
            for name, (target, probability, of) in zip(predictions.outputs, columns, strict=True)
        },
        intervals=scores["auc_per_output"],
        title=f"Findings, {split}",
    )


def _findings_csv(predictions: metrics_lib.Predictions) -> bytes:
    """id, patient, and for each finding its label (empty if unknown) and probability."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    names = [name.replace(" ", "_") for name in predictions.outputs]
    columns = [f"{kind}_{name}" for name in names for kind in ("label", "probability")]
    writer.writerow(["id", "patient", *columns])
    arrays = predictions.targets, predictions.counted, predictions.probabilities
    for name, patient, *of in zip(predictions.ids, predictions.patients, *arrays, strict=True):
        row = [name, patient]
        for target, counts, probability in zip(*of, strict=True):
            row += [int(target) if counts else "", str(probability)]
        writer.writerow(row)
    return text.getvalue().encode()


def _predictions_csv(predictions: metrics_lib.Predictions) -> bytes:
    """id, patient, label (1 = positive class), probability; with k > 1 outputs all k and the class.

    Numbers have as many digits as it takes to read the same ones back.
    """
    several = len(predictions.outputs) > 1
    header = ["id", "patient", "label", "probability"]
    if several:
        header += [f"probability_{name.replace(' ', '_')}" for name in predictions.outputs]
        header.append("class")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    columns = (
        predictions.ids,
        predictions.patients,
        predictions.targets,
        predictions.probabilities,
    )
    for name, patient, target, probability in zip(*columns, strict=True):
        row = [name, patient, int(target[0]), str(probability[0])]
        if several:
            row += map(str, probability)
            row.append("|".join(np.array(predictions.outputs)[target]))
        writer.writerow(row)
    return text.getvalue().encode()


def _plain(value: Any, name: str) -> Any:
    """The value in JSON's types; NaN and infinity become None. `name` is for the error."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), name)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{name} is a {type(value).__name__}; give numbers, text, lists or mappings")


def _nulls(value: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The paths of all NaN in nested mappings."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _nulls(item, (*keys, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _nulls(item, (*keys, str(index)))
    elif isinstance(value, float) and math.isnan(value):
        yield keys


def _why_undefined(keys: tuple[str, ...]) -> str:
    """Why the number at the path of `metrics.json` is null."""
    if "averages" in keys or "class_averages" in keys:
        return f"the {keys[-1]} of one of the classes is undefined"
    if keys[-1] in ("low", "high"):
        return "the value is undefined, or the resamples of patients do not differ"
    if "classes" in keys:
        return "the class is absent, or never called"
    if "predictive_values" in keys:
        return "nothing is called so, or a class is absent"
    if "randomised" in keys or "mass" in keys:
        return "all heatmaps are empty"
    known = [key for key in keys if key in _WHY_UNDEFINED]
    return _WHY_UNDEFINED[known[-1]] if known else "one class is absent"


def _render(template: str, metrics: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """Renders a page; metrics as in `metrics.json`, pictures: name -> PNG."""
    run = dict(metrics["run"])
    config = run.pop("config", None) or {}
    command = f"python -m jaxcovid.evaluate --workdir=WORKDIR --split={metrics['split']}"
    return pages.render_page(
        template,
        pictures,
        {"number": _number, "point": figures.point_name},
        title=f"{metrics['positive_class']} screening" if "per_patient" in metrics else "Findings",
        metrics=metrics,
        units={"image": metrics, "patient": metrics["per_patient"]}
        if "per_patient" in metrics
        else {},
        dataset=run.pop("dataset", None),
        digest=run.pop("digest", None),
        commands=run.pop("commands", None) or [command],
        left_out=max(_left_out(metrics)),
        run=dict(_flat(run)),
        config=dict(_flat(config)),
    )


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as rows: dotted key, text."""
    if isinstance(value, Mapping) and (value or not prefix):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _left_out(value: Any) -> Iterator[int]:
    """The counts of resamples left out, of all scores in nested mappings."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "left_out":
                yield item
            else:
                yield from _left_out(item)
