"""Writes what an evaluation found into the workdir, and says it in the log."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jaxcovid
from jaxcovid.audits import audit
from jaxcovid.data.datasets import Dataset
from jaxcovid.evaluation.scored import Scored
from jaxcovid.report.published import published_scores
from jaxcovid.report.report import write_report
from jaxcovid.workdir.run import read, read_json


def commands_of(scored: Scored, workdirs: Sequence[Path], evaluation: str) -> list[str]:
    """The commands that lead to a report.

    Args:
      scored: the split.
      workdirs: of the runs.
      evaluation: the command line of the evaluation.
    """
    trained = scored.predictor.facts["dataset"]["name"]
    names = dict.fromkeys([trained, scored.dataset.name])
    return [
        *(f"python -m jaxcovid.prepare {name} --source=DIR" for name in names),
        *(f"python -m jaxcovid.audit {name}" for name in names),
        *(_training_of(workdir) for workdir in workdirs),
        evaluation,
    ]


def _training_of(workdir: Path) -> str:
    """The command of a training as it was typed, unless Python or an older version started it."""
    typed = read(workdir).get("command")
    if isinstance(typed, str):
        return typed
    return f"python -m jaxcovid.train --config=FILE --workdir={workdir}  # with the options below"


def write_results(
    scored: Scored,
    directory: Path,
    *,
    more: Mapping[str, Any],
    curves: Mapping[str, Any],
    gallery: Mapping[str, Any] | None,
    commands: Sequence[str],
) -> dict[str, Any]:
    """Writes the report of a scored split; see `evaluation.report.write_report`.

    Args:
      scored: the split.
      directory: of the report.
      more: its sections.
      curves: ROC curves of other runs.
      gallery: images with heatmaps.
      commands: that lead to it, see `commands_of`.

    Returns:
      The content of `metrics.json`.
    """
    predictor, dataset = scored.predictor, scored.dataset
    facts, positive = predictor.facts, predictor.outputs[0]
    told = scored.predictions.outputs if len(scored.predictions.outputs) > 1 else [positive]
    classes = {name: name if name in told else "the rest" for name in dataset.class_names}
    metrics = write_report(
        directory,
        split=scored.split,
        predictions=scored.predictions,
        thresholds=predictor.thresholds if predictor.screening else None,
        run={
            "dataset": dataset.name,
            "digest": dataset.digest,
            "citation": dataset.citation,
            "trained on": facts["dataset"]["name"],
            **({"classes": classes} if classes else {}),
            "step": predictor.step,
            "version": jaxcovid.__version__,
            "config": facts["config"],
            "commands": list(commands),
        },
        more={
            **more,
            "audit": _audit_of(dataset),
            "published": published_scores(
                trained_on=facts["dataset"]["name"], tested_on=dataset.name
            )
            if scored.split == "test" and facts["config"]["control"] == "none"
            else None,
        },
        curves=curves,
        gallery=gallery,
    )
    _log(scored, metrics, directory)
    return metrics


def _log(scored: Scored, metrics: Mapping[str, Any], directory: Path) -> None:
    scores = {"AUC": metrics["auc"]}
    if scored.predictor.screening:
        point = metrics["operating_points"]["youden"]
        names = ("accuracy", "precision", "recall", "f", "specificity")
        scores |= {name: point[name] for name in names}
    else:
        scores |= metrics["auc_per_output"]
    scores |= {f"AUC, {row['control']}": row["auc"] for row in metrics.get("controls", ())}
    if "against" in metrics:
        scores[f"AUC beyond {metrics['against']['name']}"] = metrics["against"]["difference"]
    if "runs" in metrics:
        runs = metrics["runs"]
        logging.info(
            "AUCs of %d runs: %s; mean %.3f, deviation %.3f",
            len(runs["aucs"]),
            ", ".join(f"{value:.3f}" for value in runs["aucs"]),
            runs["mean"],
            runs["deviation"],
        )
    logging.info(
        "%s on %s, %d images of %d patients, checkpoint %d:\n%s\n  report: %s",
        scored.split,
        scored.dataset.name,
        metrics["n"],
        metrics["n_patients"],
        scored.predictor.step,
        "\n".join(f"  {name:<16} {_with_interval(score)}" for name, score in scores.items()),
        directory / "report.html",
    )


def _audit_of(dataset: Dataset) -> dict[str, Any] | None:
    """The verdicts of an audit of the data as they are; None if there was none."""
    path = dataset.directory / audit.FILE
    found = read_json(path) if path.exists() else {}
    if found.get("digest") != dataset.digest:
        return None
    checks = [{k: c[k] for k in ("name", "verdict", "summary")} for c in found["checks"]]
    return {"verdict": found["verdict"], "checks": checks}


def _with_interval(score: Mapping[str, float | None]) -> str:
    value, low, high = score["value"], score["low"], score["high"]
    if value is None:
        return "undefined"
    if low is None or high is None:
        return f"{value:.3f}"
    return f"{value:.3f}  (95 % interval {low:.3f} to {high:.3f})"
