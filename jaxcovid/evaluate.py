"""Evaluates a trained network from its workdir: scores with intervals, figures, a report.

python -m jaxcovid.evaluate --workdir=runs/covid_ct --split=test
python -m jaxcovid.evaluate --workdir=runs/ct_cov19 --split=test --dataset=covid_ct
python -m jaxcovid.evaluate --workdir=runs/a,runs/b,runs/c --controls --against=runs/plain

Results stand in WORKDIR/evaluation/[DATASET/]SPLIT/: metrics.json, predictions.csv, roc.png,
pr.png, calibration.png, heatmaps.png, report.html and model_card.md. Several workdirs are seeds of
one run: each is evaluated, and the mean of their probabilities in the first, under SPLIT-ensemble.
"""

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app
from absl.flags import argparse_flags

import jaxcovid
from jaxcovid import command


def run(
    workdir: Path,
    *,
    split: str = "test",
    dataset: str | None = None,
    data_dir: str | None = None,
    step: int | None = None,
    controls: bool = False,
    against: Path | None = None,
    workers: int = 0,
) -> dict[str, Any]:
    """Evaluates one split and writes its report.

    Args:
      workdir: of a training run.
      split: `train`, `validation` or `test`.
      dataset: another data set than the run's own, for an external test without tuning: the
        class of the run's positive class's name is positive, all others are the rest.
      data_dir: where data sets are kept; None is `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
      step: of the checkpoint; None is the best one by validation AUC.
      controls: score the network on images that lack what should matter as well.
      against: workdir of another run, to compare with on the same images.
      workers: processes that prepare images; 0 uses threads.

    Returns:
      The content of `metrics.json`.

    Raises:
      ValueError: not a workdir, an unknown split, a checkpoint that cannot be used, a data set
        without the positive class.
      OSError: a data set that is not prepared, or a folder that cannot be written.
    """
    from jaxcovid import scored as scoring
    from jaxcovid.evaluation.subgroups import groups_of, subgroup_scores

    facts = _facts_of(workdir)
    if (controls or against) and facts["config"]["outputs"] == "findings":
        raise ValueError("a network for findings has no controls and is compared with no other")
    scored = _score(workdir, split, dataset=dataset, data_dir=data_dir, step=step, workers=workers)
    predictor, options = scored.predictor, f" --step={step}" if step is not None else ""
    more: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    if predictor.screening:
        more["calibration"] = scoring.calibration_section(scored)
        more["subgroups"] = subgroup_scores(
            scored.predictions,
            [groups_of(scored.source[i]) for i in range(len(scored.source))],
            threshold=predictor.thresholds["youden"],
        )
        more["heatmaps"] = scoring.heatmaps_section(scored)
        if controls:
            more["controls"] = scoring.controls_section(scored, workers=workers)
            options += " --controls"
        if against:
            other = _score(against, split, dataset=dataset, data_dir=data_dir, workers=workers)
            more["against"] = {"name": against.name, **scoring.against_section(scored, other)}
            curves[str(against)] = other.positive, other.predictions.probabilities[:, 0]
            options += f" --against={against}"
    return _write(
        scored,
        _directory(workdir, split, scored, dataset),
        more=more,
        curves=curves,
        gallery=scoring.gallery(scored) if predictor.screening else None,
        commands=_commands(scored, [workdir], split, dataset, options),
    )


def run_ensemble(
    workdirs: Sequence[Path], *, split: str, dataset: str | None, data_dir: str | None, workers: int
) -> dict[str, Any]:
    """Evaluates the mean of the probabilities of several runs; see `run`.

    Thresholds are chosen on the mean over the validation split.

    Returns:
      The content of `metrics.json`; `runs` has the scores of each.

    Raises:
      ValueError: runs of different data sets, classes or labels.
    """
    import dataclasses

    import numpy as np

    from jaxcovid import scored as scoring
    from jaxcovid.evaluation.metrics import auc, choose_thresholds

    options = {"data_dir": data_dir, "workers": workers}
    tested = [_score(w, split, dataset=dataset, **options) for w in workdirs]
    for other in tested[1:]:
        scoring.check_same(tested[0], other)
    validated = [_score(w, "validation", **options) for w in workdirs]

    def mean(of: Sequence[scoring.Scored]) -> Any:
        probabilities = np.mean([s.predictions.probabilities for s in of], 0)
        return dataclasses.replace(of[0].predictions, probabilities=probabilities)

    joined = mean(validated)
    thresholds = choose_thresholds(joined.targets[:, 0], joined.probabilities[:, 0])
    aucs = [auc(s.positive, s.predictions.probabilities[:, 0]) for s in tested]
    predictions = mean(tested)
    first = dataclasses.replace(
        tested[0],
        predictor=dataclasses.replace(tested[0].predictor, thresholds=thresholds),
        predictions=predictions,
        uncalibrated=predictions.probabilities[:, 0],
    )
    runs = {
        "names": [str(w) for w in workdirs],
        "aucs": aucs,
        "mean": float(np.mean(aucs)),
        "deviation": float(np.std(aucs, ddof=1)),
    }
    return _write(
        first,
        _directory(workdirs[0], f"{split}-ensemble", first, dataset),
        more={"runs": runs},
        curves={
            str(w): (s.positive, s.predictions.probabilities[:, 0])
            for w, s in zip(workdirs, tested, strict=True)
        },
        gallery=None,
        commands=_commands(first, workdirs, split, dataset, ""),
    )


def _check_seeds(workdirs: Sequence[Path], step: int | None) -> None:
    """Checks that workdirs are seeds of one run; before anything is computed."""
    if step is not None:
        raise ValueError("--step is of one run; leave it out with several workdirs")
    found = [_facts_of(workdir) for workdir in workdirs]
    names = [(facts["dataset"]["name"], tuple(facts["outputs"])) for facts in found]
    if len(set(names)) > 1:
        raise ValueError(f"the runs are not seeds of one: {names}")
    if found[0]["config"]["outputs"] == "findings":
        raise ValueError("networks for findings make no ensemble; evaluate them one by one")


def _log_mean(aucs: Sequence[float]) -> None:
    """Logs the mean AUC of runs on shuffled labels, each on labels of its own: no ensemble."""
    import numpy as np
    from scipy.stats import t

    half = t.ppf(0.975, len(aucs) - 1) * np.std(aucs, ddof=1) / np.sqrt(len(aucs))
    mean = float(np.mean(aucs))
    logging.info(
        "AUCs of %d shuffles: %s; mean %.3f (95 %% interval %.3f to %.3f)",
        len(aucs),
        ", ".join(f"{value:.3f}" for value in aucs),
        mean,
        mean - half,
        mean + half,
    )


def _facts_of(workdir: Path) -> dict[str, Any]:
    from jaxcovid import workdir as workdirs

    return workdirs.read(workdir)


def _score(
    workdir: Path,
    split: str,
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    step: int | None = None,
    workers: int = 0,
) -> Any:
    from jaxcovid import predictor as predictors
    from jaxcovid import scored as scoring
    from jaxcovid.data.datasets import open_dataset

    predictor = predictors.load(workdir, step=step)
    own = predictor.facts["dataset"]["name"]
    opened = open_dataset(dataset or own, data_dir)
    scored = scoring.score_split(predictor, opened, split, workers=workers)
    if opened.name != own and opened.name.partition("/")[0] == own.partition("/")[0]:
        scoring.check_held_out(scored, open_dataset(own, data_dir))
    return scored


def _directory(workdir: Path, split: str, scored: Any, dataset: str | None) -> Path:
    return workdir / "evaluation" / (scored.dataset.name if dataset else "") / split


def _commands(
    scored: Any, workdirs: Sequence[Path], split: str, dataset: str | None, options: str
) -> list[str]:
    """The commands that lead to a report."""
    trained = scored.predictor.facts["dataset"]["name"]
    names = dict.fromkeys([trained, scored.dataset.name])
    runs = ",".join(map(str, workdirs))
    external = f" --dataset={dataset}" if dataset else ""
    return [
        *(f"python -m jaxcovid.prepare {name} --source=DIR" for name in names),
        *(f"python -m jaxcovid.audit {name}" for name in names),
        *(
            f"python -m jaxcovid.train --config=FILE --workdir={workdir}  # with the options below"
            for workdir in workdirs
        ),
        f"python -m jaxcovid.evaluate --workdir={runs} --split={split}{external}{options}",
    ]


def _write(
    scored: Any,
    directory: Path,
    *,
    more: Mapping[str, Any],
    curves: Mapping[str, Any],
    gallery: Mapping[str, Any] | None,
    commands: Sequence[str],
) -> dict[str, Any]:
    from jaxcovid.evaluation.published import published_scores
    from jaxcovid.evaluation.report import write_report

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
    scores = {"AUC": metrics["auc"]}
    if predictor.screening:
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
        dataset.name,
        metrics["n"],
        metrics["n_patients"],
        predictor.step,
        "\n".join(f"  {name:<16} {_with_interval(score)}" for name, score in scores.items()),
        directory / "report.html",
    )
    return metrics


def _audit_of(dataset: Any) -> dict[str, Any] | None:
    """The verdicts of an audit of the data as they are; None if there was none."""
    from jaxcovid import audit

    path = dataset.directory / audit.FILE
    found = json.loads(path.read_text()) if path.exists() else {}
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


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse_flags.ArgumentParser(
        prog="python -m jaxcovid.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workdir",
        required=True,
        metavar="DIR[,DIR...]",
        help="of a training run, or of its seeds",
    )
    parser.add_argument("--split", default="test", help="train, validation or test (default: test)")
    parser.add_argument(
        "--dataset", metavar="NAME", help="another data set than the run's: an external test"
    )
    parser.add_argument(
        "--controls",
        action="store_true",
        help="score it on borders, centres, lungs, thumbnails, flipped and shifted images too",
    )
    parser.add_argument(
        "--against", metavar="DIR", type=Path, help="another run, compared on the same images"
    )
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the best one)")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare images")
    parser.add_argument("--data_dir", metavar="DIR", help=command.DATA_DIR_HELP)
    return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> None:
    """Evaluates what the command line names."""
    with command.user_errors():
        command.start()
        workdirs = [Path(name) for name in args.workdir.split(",")]
        options = {
            "split": args.split,
            "dataset": args.dataset,
            "data_dir": args.data_dir,
            "workers": args.workers,
        }
        if len(workdirs) > 1:
            _check_seeds(workdirs, args.step)
        found = [
            run(
                workdir,
                step=args.step,
                controls=args.controls,
                against=args.against,
                **options,
            )
            for workdir in workdirs
        ]
        if len(workdirs) > 1 and _facts_of(workdirs[0])["config"]["control"] == "shuffled_labels":
            _log_mean([metrics["auc"]["value"] for metrics in found])
        elif len(workdirs) > 1:
            run_ensemble(workdirs, **options)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
