"""Evaluates a trained network from its workdir: scores with intervals, figures, a report.

python -m jaxcovid.evaluate --workdir=runs/covid_ct --split=test
python -m jaxcovid.evaluate --workdir=runs/ct_cov19 --split=test --dataset=covid_ct

Results stand in WORKDIR/evaluation/[DATASET/]SPLIT/: metrics.json, predictions.csv, roc.png,
heatmaps.png and report.html.
"""

import argparse
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
      workers: processes that prepare images; 0 uses threads.

    Returns:
      The content of `metrics.json`.

    Raises:
      ValueError: not a workdir, an unknown split, a checkpoint that cannot be used, a data set
        without the positive class.
      OSError: a data set that is not prepared, or a folder that cannot be written.
    """
    import numpy as np

    from jaxcovid import predictor as predictors
    from jaxcovid.data.datasets import open_dataset
    from jaxcovid.evaluation.metrics import Predictions
    from jaxcovid.evaluation.report import write_report
    from jaxcovid.training.loop import predict_source
    from jaxcovid.training.targets import ClassTargets, FindingTargets

    predictor = predictors.load(workdir, step=step)
    facts = predictor.facts
    external = dataset is not None
    opened = open_dataset(dataset or facts["dataset"]["name"], data_dir)
    config = facts["config"]
    if external:
        _check_external(opened, predictor)
    if not external and opened.digest != facts["dataset"]["digest"]:
        logging.warning(
            "The data set %s has changed since training: its digest is %s, the run's %s",
            opened.name,
            opened.digest,
            facts["dataset"]["digest"],
        )
    source = opened.source(split)
    probabilities = predict_source(
        predictor.weights,
        source,
        forward=predictor.forward,
        preprocessing=predictor.preprocessing,
        batch_size=predictor.batch_size,
        mesh=predictor.mesh,
        workers=workers,
    )
    records = [source[i] for i in range(len(source))]
    # Where the other classes have other names, only the positive one can be told from the rest.
    known = set(predictor.outputs) <= {*opened.class_names, *opened.finding_names}
    outputs = predictor.outputs if known else predictor.outputs[:1]
    screening = predictor.screening
    if screening:
        targets = ClassTargets(outputs, opened.class_names)
    else:
        uncertain = config["uncertain"]
        targets = FindingTargets(outputs, tuple(uncertain["ones"]), tuple(uncertain["ignore"]))
    wanted = np.stack([targets(record) for record in records])
    predictions = Predictions(
        ids=[record["id"] for record in records],
        patients=[record["patient"] for record in records],
        targets=wanted > 0.5,
        probabilities=probabilities[:, : len(outputs)],
        outputs=outputs,
        known=None if screening else wanted >= 0,
    )
    directory = workdir / "evaluation" / (opened.name if external else "") / split
    command_line = f"python -m jaxcovid.evaluate --workdir={workdir} --split={split}"
    metrics = write_report(
        directory,
        split=split,
        predictions=predictions,
        thresholds=predictor.thresholds if screening else None,
        run={
            "dataset": opened.name,
            "digest": opened.digest,
            "citation": opened.citation,
            "trained on": facts["dataset"]["name"],
            **_classes(opened, predictor),
            "step": predictor.step,
            "version": jaxcovid.__version__,
            "config": facts["config"],
            "commands": [
                f"python -m jaxcovid.prepare {opened.name} ...",
                f"python -m jaxcovid.train --config=... --workdir={workdir}",
                command_line + (f" --dataset={dataset}" if external else ""),
            ],
        },
        gallery=_gallery(predictor, records, predictions) if screening else None,
    )
    scores = {"AUC": metrics["auc"]}
    if screening:
        point = metrics["operating_points"]["youden"]
        names = ("accuracy", "precision", "recall", "f", "specificity")
        scores |= {name: point[name] for name in names}
    else:
        scores |= metrics["auc_per_output"]
    logging.info(
        "%s on %s, %d images of %d patients, checkpoint %d:\n%s\n  report: %s",
        split,
        opened.name,
        metrics["n"],
        metrics["n_patients"],
        predictor.step,
        "\n".join(f"  {name:<16} {_with_interval(score)}" for name, score in scores.items()),
        directory / "report.html",
    )
    return metrics


def _check_external(dataset: Any, predictor: Any) -> None:
    """Refuses a data set that a network was not trained for.

    Raises:
      ValueError: its images are of another modality, or it does not tell of what the network does.
    """
    if dataset.modality and predictor.modality and dataset.modality != predictor.modality:
        raise ValueError(
            f"{dataset.name} holds {dataset.modality} images, this network was trained on "
            f"{predictor.modality}"
        )
    told = {*dataset.class_names, *dataset.finding_names}
    needed = predictor.outputs[:1] if predictor.screening else predictor.outputs
    if absent := [name for name in needed if name not in told]:
        raise ValueError(
            f"{dataset.name} does not tell of {' and '.join(absent)}, which this network does; "
            f"it tells of {', '.join(sorted(told))}"
        )


def _classes(dataset: Any, predictor: Any) -> dict[str, Any]:
    """How classes of the data set count for a network that screens for one, for the report."""
    positive = predictor.outputs[0]
    classes = {name: positive if name == positive else "the rest" for name in dataset.class_names}
    return {"classes": classes} if classes else {}


def _with_interval(score: Mapping[str, float | None]) -> str:
    value, low, high = score["value"], score["low"], score["high"]
    if value is None:
        return "undefined"
    if low is None or high is None:
        return f"{value:.3f}"
    return f"{value:.3f}  (95 % interval {low:.3f} to {high:.3f})"


def _gallery(
    predictor: Any,
    records: Sequence[Mapping[str, Any]],
    predictions: Any,
) -> dict[str, Any]:
    """Two each of the clearest hits, misses, false alarms and correct rejections, with heatmaps."""
    import cv2
    import numpy as np

    from jaxcovid.data.images import decode_gray

    positive, probability = predictions.targets[:, 0], predictions.probabilities[:, 0]
    called = probability >= predictor.thresholds["youden"]
    chosen: list[tuple[int, str]] = []
    for kind, group, descending in (
        ("hit", positive & called, True),
        ("miss", positive & ~called, False),
        ("false alarm", ~positive & called, True),
        ("correct rejection", ~positive & ~called, False),
    ):
        members = np.flatnonzero(group)
        order = members[np.argsort(probability[members], kind="stable")]
        chosen += [(int(i), kind) for i in (order[::-1] if descending else order)[:2]]
    images = [decode_gray(records[i]["image"]) for i, _ in chosen]
    masks = [
        cv2.imdecode(np.frombuffer(records[i]["mask"], np.uint8), cv2.IMREAD_GRAYSCALE) > 0
        if "mask" in records[i]
        else None
        for i, _ in chosen
    ]
    return {
        "images": images,
        "heatmaps": list(predictor.heatmaps(images)),
        "captions": [f"{kind}, p = {probability[i]:.2f}: {records[i]['id']}" for i, kind in chosen],
        "masks": masks,
    }


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse_flags.ArgumentParser(
        prog="python -m jaxcovid.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of a training run")
    parser.add_argument("--split", default="test", help="train, validation or test (default: test)")
    parser.add_argument(
        "--dataset", metavar="NAME", help="another data set than the run's: an external test"
    )
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the best one)")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare images")
    parser.add_argument("--data_dir", metavar="DIR", help=command.DATA_DIR_HELP)
    return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> None:
    """Evaluates what the command line names."""
    with command.user_errors():
        command.start()
        run(
            Path(args.workdir),
            split=args.split,
            dataset=args.dataset,
            data_dir=args.data_dir,
            step=args.step,
            workers=args.workers,
        )


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
