"""Evaluates a trained network from its workdir: scores with intervals, figures, a report.

python -m jaxcovid.evaluate --workdir=runs/covid_ct --split=test
python -m jaxcovid.evaluate --workdir=runs/ct_cov19 --split=test --dataset=covid_ct
python -m jaxcovid.evaluate --workdir=runs/a,runs/b,runs/c --controls --against=runs/plain

Results stand in WORKDIR/evaluation/[DATASET/]SPLIT/: metrics.json, predictions.csv, roc.png,
pr.png, calibration.png, heatmaps.png, report.html and model_card.md. Several workdirs are seeds of
one run: each is evaluated, and the mean of their probabilities in the first, under SPLIT-ensemble.
"""

import argparse
import dataclasses
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app

from jaxcovid.runtime import cli
from jaxcovid.runtime.files import as_path
from jaxcovid.runtime.user_errors import user_errors


def run(
    workdirs: Sequence[Path],
    *,
    split: str = "test",
    dataset: str | None = None,
    data_dir: str | None = None,
    step: int | None = None,
    controls: bool = False,
    against: Path | None = None,
    allow_seen: bool = False,
    workers: int = 0,
    typed: str | None = None,
) -> list[dict[str, Any]]:
    """Evaluates one split and writes its report.

    Args:
      workdirs: of a training run, or of several seeds of one.
      split: `train`, `validation` or `test`.
      dataset: another data set than the run's own, for an external test without tuning: the
        class of the run's positive class's name is positive, all others are the rest.
      data_dir: where data sets are kept; None is `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
      step: of the checkpoint; None is the best one by validation AUC.
      controls: score the network on images that lack what should matter as well.
      against: workdir of another run, to compare with on the same images.
      allow_seen: score a split that holds images or patients that the network has learned from;
        the report says how many.
      workers: processes that prepare images; 0 uses threads.
      typed: the command line, for the report; None is the one that does the same.

    Returns:
      The content of each `metrics.json`: of every run, and of several runs their ensemble's.

    Raises:
      ValueError: not a workdir, an unknown split, a checkpoint that cannot be used, a data set
        without the positive class, a split that was trained on, runs that are not seeds of one.
      OSError: a data set that is not prepared, or a folder that cannot be written.
    """
    from jaxcovid.evaluation import results, sections

    facts = [_facts_of(w) for w in workdirs]
    if (controls or against) and any(f["config"]["outputs"] == "findings" for f in facts):
        raise ValueError("a network for findings has no controls and is compared with no other")
    if len(workdirs) > 1:
        _check_seeds(facts, step)
    opened = {"dataset": dataset, "data_dir": data_dir, "workers": workers}
    opened["allow_seen"] = allow_seen
    other = _score(against, split, **opened) if against else None
    tested = [_score(w, split, step=step, **opened) for w in workdirs]
    if typed is None:
        options = {"step": step, "dataset": dataset, "against": against}
        given = [f"--{name}={value}" for name, value in options.items() if value is not None]
        runs = ",".join(map(str, workdirs))
        words = [
            f"--workdir={runs}",
            f"--split={split}",
            *given,
            *(["--controls"] if controls else []),
            *(["--allow_seen"] if allow_seen else []),
        ]
        typed = cli.typed("evaluate", words)
    found = []
    for workdir, scored in zip(workdirs, tested, strict=True):
        more = {"seen": dataclasses.asdict(scored.seen)} if scored.seen else {}
        curves: dict[str, Any] = {}
        if scored.predictor.screening:
            more |= sections.usual_sections(scored)
        if controls:
            more["controls"] = sections.controls_section(scored, workers=workers)
        if other:
            more["against"] = {"name": against.name, **sections.against_section(scored, other)}
            curves[str(against)] = other.curve
        metrics = results.write_results(
            scored,
            _directory(workdir, split, scored, dataset),
            more=more,
            curves=curves,
            gallery=sections.gallery(scored),
            commands=results.commands_of(scored, [workdir], typed),
        )
        found.append(metrics)
    if len(workdirs) > 1 and facts[0]["config"]["control"] == "shuffled_labels":
        _log_mean([metrics["auc"]["value"] for metrics in found])
    elif len(workdirs) > 1:
        validated = tested
        if split != "validation" or dataset:
            own = {"data_dir": data_dir, "workers": workers, "allow_seen": allow_seen}
            validated = [_score(w, "validation", **own) for w in workdirs]
        found.append(
            _ensemble(workdirs, tested, validated, split=split, dataset=dataset, typed=typed)
        )
    return found


def _ensemble(
    workdirs: Sequence[Path],
    tested: Sequence[Any],
    validated: Sequence[Any],
    *,
    split: str,
    dataset: str | None,
    typed: str,
) -> dict[str, Any]:
    """Evaluates the mean of the probabilities of several runs.

    Thresholds are chosen on the mean over the validation split.

    Returns:
      The content of `metrics.json`; `runs` has the scores of each.

    Raises:
      ValueError: runs of different images, classes or labels.
    """
    import numpy as np

    from jaxcovid.evaluation import results
    from jaxcovid.evaluation.scored import check_same
    from jaxcovid.metrics.scores import auc, choose_thresholds

    for other in tested[1:]:
        check_same(tested[0], other)

    def mean(of: Sequence[Any]) -> Any:
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
    seen = max((s.seen for s in tested), key=lambda overlap: overlap.images_of_patients)
    runs = {
        "names": [str(w) for w in workdirs],
        "aucs": aucs,
        "mean": float(np.mean(aucs)),
        "deviation": float(np.std(aucs, ddof=1)),
    }
    return results.write_results(
        first,
        _directory(workdirs[0], f"{split}-ensemble", first, dataset),
        more={"runs": runs, "seen": dataclasses.asdict(seen) if seen else None},
        curves={str(w): s.curve for w, s in zip(workdirs, tested, strict=True)},
        gallery=None,
        commands=results.commands_of(first, workdirs, typed),
    )


def _check_seeds(found: Sequence[Mapping[str, Any]], step: int | None) -> None:
    """Checks that runs of these facts are seeds of one; before anything is computed."""
    if step is not None:
        raise ValueError("--step is of one run; leave it out with several workdirs")
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
    from jaxcovid.workdir import run as workdirs

    return workdirs.read(workdir)


def _score(
    workdir: Path,
    split: str,
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    step: int | None = None,
    workers: int = 0,
    allow_seen: bool = False,
) -> Any:
    from jaxcovid.data.datasets import open_dataset
    from jaxcovid.evaluation import scored as scoring
    from jaxcovid.inference import predictor as predictors

    predictor = predictors.load(workdir, step=step)
    opened = open_dataset(dataset or predictor.facts["dataset"]["name"], data_dir)
    scoring.check_fits(opened, predictor)
    seen = scoring.check_held_out(workdir, predictor, opened, split, allow_seen=allow_seen)
    scored = scoring.score_split(predictor, opened, split, workers=workers)
    return dataclasses.replace(scored, seen=seen)


def _directory(workdir: Path, split: str, scored: Any, dataset: str | None) -> Path:
    return workdir / "evaluation" / (scored.dataset.name if dataset else "") / split


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.make_parser("evaluate", __doc__)
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
        "--against", metavar="DIR", type=as_path, help="another run, compared on the same images"
    )
    parser.add_argument(
        "--allow_seen",
        action="store_true",
        help="score images and patients that the network was trained on too; the report marks it",
    )
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the best one)")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare images")
    parser.add_argument("--data_dir", metavar="DIR", help=cli.DATA_DIR_HELP)
    return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> None:
    """Evaluates what the command line names."""
    with user_errors():
        cli.start()
        run(
            [as_path(name) for name in args.workdir.split(",")],
            split=args.split,
            dataset=args.dataset,
            data_dir=args.data_dir,
            step=args.step,
            controls=args.controls,
            against=args.against,
            allow_seen=args.allow_seen,
            workers=args.workers,
            typed=cli.typed("evaluate", sys.argv[1:]),
        )


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
