"""Writes the result of an evaluation: numbers for programs, one page for people.

A folder holds `predictions.csv`, `metrics.json`, the figures, `model_card.md` and `report.html`,
which carries its pictures and style inside and opens without a network.
`metrics.json` is written last: where it exists, the rest is complete.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from jaxcovid.evaluation.result import EvaluationResult
from jaxcovid.metrics.findings import FindingScores
from jaxcovid.metrics.predictions import Predictions, per_patient
from jaxcovid.metrics.scores import RATIOS
from jaxcovid.metrics.screening import ScreeningScores
from jaxcovid.report import curves, gallery, pages, tables
from jaxcovid.runtime import files

_OPTIONAL = ("roc.png", "pr.png", "calibration.png", "heatmaps.png", "contours.png")
_SHOWN_PATIENTS = 100  # in the table of involvement
_IN_SECTIONS = ("dataset", "digest", "commands", "config")  # of the run: shown elsewhere


def write_report(directory: Path, result: EvaluationResult) -> None:
    """Writes the folder of a result.

    Args:
      directory: made if it is missing; files of an earlier report are replaced.
      result: of `evaluation.evaluate`.

    Raises:
      ValueError: a picture of the gallery that cannot be drawn.
      TypeError: a value of the configuration that has no form in JSON.
      OSError: the folder or a file cannot be written.
    """
    metrics = result.to_json()
    numbers = json.dumps(metrics, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    pictures = dict(_pictures(result))
    findings = isinstance(result.scores, FindingScores)
    table = tables.findings_csv if findings else tables.screening_csv
    contents = {
        "predictions.csv": table(result.predictions),
        **{f"{name}.png": picture for name, picture in pictures.items()},
        "report.html": _render("report.html.jinja", result, metrics, pictures).encode(),
        "model_card.md": _render("model_card.md.jinja", result, metrics, {}).encode(),
        "metrics.json": numbers.encode(),
    }
    _clear(directory)
    for name, content in contents.items():
        files.write_atomically(directory / name, content)


def _clear(directory: Path) -> None:
    """Makes the folder, or takes away what a new report might not replace."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for outdated in ("metrics.json", *_OPTIONAL):
            (directory / outdated).unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write the report's folder ({error.strerror}); make it writable or give "
            "another one",
            str(directory),
        ) from error


def _pictures(result: EvaluationResult) -> Iterator[tuple[str, bytes]]:
    """The figures, PNG, by name."""
    predictions = result.predictions
    title = f"{predictions.outputs[0]} against the rest, {result.split}"
    if result.only_segments:
        title += ", by the share of the lungs involved"
    if result.screening:
        yield "roc", _screening_roc(result, result.screening, title)
        yield (
            "pr",
            curves.precision_recall_figure(
                predictions.positive,
                predictions.probability,
                average_precision=result.screening.per_image.average_precision,
                title=title,
            ),
        )
    if isinstance(result.scores, FindingScores):
        yield "roc", _findings_roc(result, result.scores)
    if result.calibration:
        bins = result.calibration.reliability
        yield "calibration", curves.reliability_figure(bins, title=f"Calibration, {result.split}")
    if result.gallery:
        yield "heatmaps", gallery.heatmap_gallery(result.gallery)
    if result.segmentation and result.segmentation.overlays:
        yield "contours", gallery.contour_sheet(result.segmentation.overlays)


def _screening_roc(result: EvaluationResult, scores: ScreeningScores, title: str) -> bytes:
    units: dict[str, Predictions] = {
        "per image": result.predictions,
        "per patient": per_patient(result.predictions),
        **dict(result.curves),
    }
    points = scores.per_image.operating_points
    return curves.roc_figure(
        {name: (unit.positive, unit.probability) for name, unit in units.items()},
        aucs={"per image": scores.per_image.auc, "per patient": scores.per_patient.auc},
        thresholds={name: point.threshold for name, point in points.items()},
        title=title,
    )


def _findings_roc(result: EvaluationResult, scores: FindingScores) -> bytes:
    predictions = result.predictions
    arrays = predictions.targets, predictions.probabilities, predictions.counted
    columns = zip(*(array.T for array in arrays), strict=True)
    return curves.roc_figure(
        {
            name: (target[known], probability[known])
            for name, (target, probability, known) in zip(predictions.outputs, columns, strict=True)
        },
        aucs=scores.auc_per_output,
        thresholds={},
        title=f"Findings, {result.split}",
    )


def _render(
    template: str,
    result: EvaluationResult,
    metrics: Mapping[str, Any],
    pictures: Mapping[str, bytes],
) -> str:
    """Renders a page of a result; metrics as in `metrics.json`, pictures: name -> PNG."""
    screening = result.screening
    run = metrics["run"]
    return pages.render_page(
        template,
        pictures,
        {
            "number": _number,
            "percent": _percent,
            "share": _share,
            "point": curves.point_name,
        },
        title=_title(result),
        result=result,
        scores=result.per_image,
        intervals=result.scores.intervals,
        units={"image": screening.per_image, "patient": screening.per_patient} if screening else {},
        ratios={name: ratio.label for name, ratio in RATIOS.items()},
        undefined=metrics["undefined"],
        left_out=max(_left_out(metrics)),
        shown_patients=_SHOWN_PATIENTS,
        run=_rows({key: value for key, value in run.items() if key not in _IN_SECTIONS}),
        config=_rows(run["config"]),
    )


def _title(result: EvaluationResult) -> str:
    if result.only_segments:
        return "Lungs and lesion"
    screening = result.screening
    return f"{screening.per_image.positive_class} screening" if screening else "Findings"


def _rows(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested mappings as rows of a table: dotted key -> text."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in flatten_dict(values, sep=".").items()
    }


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def _percent(share: float) -> str:
    return "an undefined number of" if math.isnan(share) else f"{100 * share:.0f}"


def _share(share: float) -> str:
    """A share in a table."""
    return "–" if math.isnan(share) else f"{100 * share:.1f} %"  # noqa: RUF001


def _left_out(value: Any) -> Iterator[int]:
    """The counts of resamples left out, of all scores in nested mappings."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "left_out":
                yield item
            else:
                yield from _left_out(item)
