"""Evaluates a trained network from its workdir: scores with intervals, figures, a report.

python -m jaxcovid.evaluate --workdir=runs/covid_ct --split=test
python -m jaxcovid.evaluate --workdir=runs/ct_cov19 --split=test --dataset=covid_ct
python -m jaxcovid.evaluate --workdir=runs/a,runs/b,runs/c --ablations --against=runs/plain
python -m jaxcovid.evaluate --workdir=runs/covid_ct --sources=covid_ct,sars_cov_2_ct

WORKDIR/evaluation/[DATASET/]SPLIT/ gets the results: metrics.json, predictions.csv, roc.png,
pr.png, calibration.png, heatmaps.png, report.html and model_card.md. Several workdirs are seeds of
one run: each is evaluated, and the mean of their probabilities in the first, under SPLIT-ensemble.
With --classifier=logistic or prototypes (xDNN) its features of the training split are classified by
that instead, under SPLIT-NAME.
With --sources each data set is evaluated, and evaluation/sources.json and sources.md compare them.
"""

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import app

from jaxcovid.evaluation.selection import Selection
from jaxcovid.runtime import cli
from jaxcovid.runtime.files import as_path
from jaxcovid.runtime.user_errors import user_errors

if TYPE_CHECKING:  # it takes a second to import
    from jaxcovid.evaluation.across_sources import AcrossSources
    from jaxcovid.evaluation.result import EvaluationResult


def run(
    workdirs: Sequence[Path],
    selection: Selection | None = None,
    *,
    step: int | None = None,
    ablations: bool = False,
    against: Path | None = None,
    command: str | None = None,
) -> list["EvaluationResult"]:
    """Evaluates one split and writes its report.

    Args:
      workdirs: of a training run, or of several seeds of one.
      selection: the split; None is the test split.
      step: of the checkpoint; None is the best one by validation AUC.
      ablations: score the network on images that lack what should matter as well.
      against: workdir of another run, to compare with on the same images.
      command: the command line, for the report; None is the one that does the same.

    Returns:
      The result of every run, and of several runs that of their ensemble.

    Raises:
      ValueError: not a workdir, an unknown split, a checkpoint that cannot be used, a data set
        without the positive class, a split that was trained on, runs that are not seeds of one.
      OSError: a data set that is not prepared, or a folder that cannot be written.
    """
    from jaxcovid.evaluation.evaluation import check_request, evaluate, evaluate_ensemble
    from jaxcovid.evaluation.scored import score_split
    from jaxcovid.inference import predictor
    from jaxcovid.report.summary import summarize_shuffles

    selection = selection or Selection()
    if step is not None and len(workdirs) > 1:
        raise ValueError("--step is of one run; leave it out with several workdirs")
    networks = [predictor.load(workdir, step=step) for workdir in workdirs]
    other = predictor.load(against) if against else None
    check_request(networks, ablations=ablations, against=other)
    command = command or _command(workdirs, selection, step, ablations, against)
    rival = score_split(other, selection) if other else None
    tested = [score_split(network, selection) for network in networks]
    results = []
    for scored, workdir in zip(tested, workdirs, strict=True):
        result = evaluate(
            scored, command, ablations=ablations, against=rival, workers=selection.workers
        )
        results.append(_write(result, workdir, selection))
    if len(tested) > 1 and networks[0].run.ablation == "shuffled_labels":
        # Each run has labels of its own: there is no ensemble.
        logging.info(summarize_shuffles([each.per_image.auc.value for each in results]))
    elif len(tested) > 1:
        own = dataclasses.replace(selection, split="validation", dataset=None)
        validated = tested if selection == own else [score_split(each, own) for each in networks]
        results.append(
            _write(evaluate_ensemble(tested, validated, command), workdirs[0], selection)
        )
    return results


def run_across_sources(
    workdir: Path, datasets: Sequence[str], selection: Selection, *, step: int | None = None
) -> "AcrossSources":
    """Evaluates a network on the same split of several data sets, and compares them.

    Args:
      workdir: of a training run.
      datasets: their names; one of which the network has learned nothing is an external test.
      selection: the split; its data set does not count.
      step: of the checkpoint; None is the best one on validation.

    Raises:
      ValueError: see `run`; fewer than two data sets.
      OSError: see `run`.
    """
    from jaxcovid.evaluation import across_sources, json_form
    from jaxcovid.evaluation.evaluation import evaluate
    from jaxcovid.evaluation.scored import score_split
    from jaxcovid.inference import predictor
    from jaxcovid.runtime.files import write_atomically

    if len(set(datasets)) < 2:
        raise ValueError(f"--sources has {','.join(datasets)}; give two data sets or more")
    network = predictor.load(workdir, step=step)
    scored, results = [], []
    for name in datasets:
        chosen = dataclasses.replace(selection, dataset=name)
        scored.append(score_split(network, chosen))
        command = _command([workdir], chosen, step, False, None)
        result = evaluate(scored[-1], command, workers=selection.workers)
        results.append(_write(result, workdir, chosen))
    across = across_sources.across_sources(scored, results, workers=selection.workers)
    table = across_sources.as_table(across)
    folder = workdir / "evaluation"
    content = json_form.without_nan(json_form.content_of(across))
    write_atomically(folder / "sources.json", (json.dumps(content, indent=1) + "\n").encode())
    write_atomically(folder / "sources.md", f"{table}\n".encode())
    logging.info("%s\n%s", folder / "sources.md", table)
    return across


def run_refitted(
    workdir: Path,
    classifier: str,
    selection: Selection | None = None,
    *,
    step: int | None = None,
    command: str | None = None,
) -> "EvaluationResult":
    """Evaluates another classifier, fitted to a network's features of its training split.

    Args:
      workdir: of a training run.
      classifier: `logistic` or `prototypes`.
      selection: the split; None is the test split.
      step: of the checkpoint; None is the best one on validation.
      command: see `run`.

    Raises:
      ValueError: see `run`; no such classifier, or a network without a classifier of one class.
      OSError: see `run`.
    """
    from jaxcovid.evaluation.evaluation import evaluate_refitted
    from jaxcovid.evaluation.refitted import check_classifier, refit
    from jaxcovid.evaluation.scored import score_split
    from jaxcovid.inference import predictor

    selection = selection or Selection()
    network = predictor.load(workdir, step=step)
    check_classifier(network, classifier)
    tested = score_split(network, selection)
    own = dataclasses.replace(selection, split="validation", dataset=None)
    validated = tested if selection == own else score_split(network, own)
    refitted = refit(tested, validated, selection, classifier=classifier)
    command = command or _command([workdir], selection, step, False, None, classifier)
    return _write(evaluate_refitted(refitted, classifier, command), workdir, selection)


def _write(result: "EvaluationResult", workdir: Path, selection: Selection) -> "EvaluationResult":
    """Writes the report of a result into the folder of its run, and its scores into the log."""
    from jaxcovid.report.report import write_report
    from jaxcovid.report.summary import summarize

    variety = "ensemble" if result.ensemble else result.classifier
    split = f"{selection.split}-{variety}" if variety else selection.split
    external = result.run.dataset if selection.dataset else ""
    directory = workdir / "evaluation" / external / split
    write_report(directory, result)
    logging.info("%s\n  report: %s", summarize(result), directory / "report.html")
    return result


def _command(
    workdirs: Sequence[Path],
    selection: Selection,
    step: int | None,
    ablations: bool,
    against: Path | None,
    classifier: str | None = None,
) -> str:
    """The command line that does the same."""
    options = {
        "step": step,
        "dataset": selection.dataset,
        "against": against,
        "classifier": classifier,
    }
    words = [
        f"--workdir={','.join(map(str, workdirs))}",
        f"--split={selection.split}",
        *(f"--{name}={value}" for name, value in options.items() if value is not None),
        *(["--ablations"] if ablations else []),
        *(["--allow_seen"] if selection.allow_seen else []),
    ]
    return cli.typed("evaluate", words)


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
        "--sources",
        metavar="NAME,NAME[,...]",
        help="several data sets: scores on each, and how well features tell them apart",
    )
    parser.add_argument(
        "--classifier",
        metavar="NAME",
        help="logistic or prototypes: fitted to the network's features, in place of its own",
    )
    parser.add_argument(
        "--ablations",
        action="store_true",
        help="score it on borders, centres, lungs, thumbnails, flipped and other images too",
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


def _check_alone(args: argparse.Namespace) -> None:
    """Refuses options that --sources and --classifier do not go with."""
    if args.sources and (args.dataset or args.classifier):
        raise ValueError("--sources goes without --dataset and --classifier")
    if args.ablations or args.against or "," in args.workdir:
        raise ValueError(
            "--sources and --classifier are of one workdir, without --ablations and --against"
        )


def main(args: argparse.Namespace) -> None:
    """Evaluates what the command line names."""
    with user_errors():
        cli.start()
        selection = Selection(
            split=args.split,
            dataset=args.dataset,
            data_dir=args.data_dir,
            allow_seen=args.allow_seen,
            workers=args.workers,
        )
        command = cli.typed("evaluate", sys.argv[1:])
        if args.sources or args.classifier:
            _check_alone(args)
        if args.classifier:
            run_refitted(
                as_path(args.workdir), args.classifier, selection, step=args.step, command=command
            )
            return
        if args.sources:
            run_across_sources(
                as_path(args.workdir), args.sources.split(","), selection, step=args.step
            )
            return
        run(
            [as_path(name) for name in args.workdir.split(",")],
            selection,
            step=args.step,
            ablations=args.ablations,
            against=args.against,
            command=command,
        )


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
