"""Screens images with a trained network: CSV of probability and decision of each on stdout.

python -m jaxcovid.predict --workdir=runs/covid_ct scan.png folder/ > predictions.csv
python -m jaxcovid.predict --workdir=runs/covid_ct --heatmaps --output=screened folder/

Several DICOM slices of a series or a patient get a row together as well: the mean of their
probabilities. An image that cannot be used gets a row with its error; the others are finished, and
the exit status is 1. For research only: no diagnosis.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import csv
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import app, logging

from jaxcovid import command
from jaxcovid.files import as_path


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Files and the visible files below folders, sorted within each.

    Raises:
      FileNotFoundError: a path does not exist, or nothing is found.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"no image or folder {path}")
        below = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [p for p in below if p.is_file() and not p.name.startswith(".")]
    if not found:
        raise FileNotFoundError(f"no files below {', '.join(map(str, paths))}")
    return found


def run(
    workdir: Path,
    paths: Sequence[str | Path],
    *,
    threshold: str = "youden",
    step: int | None = None,
    heatmaps: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields a row for each image, in order.

    Args:
      workdir: of a training run.
      paths: images and folders.
      threshold: name of a stored threshold (`youden`, `sensitivity_90`, `sensitivity_95`) or a
        number in 0 to 1.
      step: of the checkpoint; None is the best one by validation AUC.
      heatmaps: folder for an overlay of each image; None makes none.

    Yields:
      Rows of the same columns: `id`; of DICOM `patient` and `series`; `images`, how many it is
      about; `probability` of the positive class and `decision` (not of a network for findings);
      `probability_NAME` of the other outputs; `warning` of an image that is not of the kind that
      the network was trained on; `error`, else empty. First a row for each image, then
      one for each DICOM series and patient of several.

    Raises:
      ValueError: not a workdir, an unknown threshold.
      OSError: a path that does not exist, a folder that cannot be written.
    """
    import cv2

    from jaxcovid import predictor as predictors
    from jaxcovid.data import dicom
    from jaxcovid.data.images import ImageError, colour_of, read_file
    from jaxcovid.evaluation.figures import overlay

    images = find_images(paths)
    predictor = predictors.load(workdir, step=step)
    if not predictor.screening and threshold != "youden":
        raise ValueError("a network for findings has no thresholds; leave --threshold out")
    limit = _threshold(threshold, predictor.thresholds) if predictor.screening else None
    if heatmaps and not predictor.explains:
        raise ValueError("part 3 of this network is switched off; leave --heatmaps out")
    if heatmaps:
        heatmaps.mkdir(parents=True, exist_ok=True)

    def read(paths: Sequence[Path]) -> dict[Path, Any]:
        """Of each path the gray image, its colour and DICOM header, or what is wrong with it."""
        found: dict[Path, Any] = {}
        for path in paths:
            try:
                data = read_file(path)
                gray = predictor.read_gray(data)
                found[path] = gray, colour_of(data), dicom.header_of(path)
            except (ImageError, OSError) as error:
                found[path] = error
        return found

    # Of findings, a heatmap each.
    drawn = [""] if predictor.screening else [f"_{name}" for name in predictor.outputs]
    row = partial(_row, outputs=predictor.outputs, limit=limit)
    size = predictor.batch_size
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    groups: dict[tuple[str, str], list[Any]] = collections.defaultdict(list)
    for opened in _one_ahead(read, batches):
        grays = {p: of[0] for p, of in opened.items() if not isinstance(of, Exception)}
        usable = list(grays.values())
        found = dict(zip(grays, predictor.probabilities(usable), strict=True)) if usable else {}
        if heatmaps and usable:
            for output, outputs_name in enumerate(drawn):
                cams = predictor.heatmaps(usable, output=output)
                for path, cam in zip(grays, cams, strict=True):
                    picture = cv2.cvtColor(overlay(grays[path], cam), cv2.COLOR_RGB2BGR)
                    encoded = cv2.imencode(".png", picture)[1].tobytes()
                    (heatmaps / _picture_name(path, outputs_name)).write_bytes(encoded)
        for path, of in opened.items():
            if path not in found:
                yield row(str(path), error=str(of))
                continue
            gray, colour, header = of
            warning = predictor.warning(gray, colour)
            patient, series = (header.patient, header.series) if header else ("", "")
            if series:
                groups[patient, series].append(found[path])
            if patient:
                groups[patient, ""].append(found[path])
            yield row(str(path), found[path], patient=patient, series=series, warning=warning)
    for (patient, series), several in sorted(groups.items()):
        if len(several) > 1:
            name = f"series {series}" if series else f"patient {patient}"
            mean = sum(several) / len(several)
            yield row(name, mean, patient=patient, series=series, images=len(several))


def _picture_name(path: Path, output: str) -> str:
    """The file name of a heatmap; no name of an image or of an output leads out of the folder."""
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    name = re.sub(r"[/\\\0]", "_", "_".join(parts) + output)
    return os.fsdecode(os.fsencode(name)[-200:]) + ".png"  # file systems take 255 bytes


def _row(
    identifier: str,
    probabilities: Sequence[float] | None = None,
    *,
    outputs: Sequence[str],
    limit: float | None,
    patient: str = "",
    series: str = "",
    images: int = 1,
    warning: str = "",
    error: str = "",
) -> dict[str, Any]:
    """A row of `run`; without a limit the network is one for findings."""
    texts = [""] * len(outputs) if probabilities is None else [f"{p:.6f}" for p in probabilities]
    row: dict[str, Any] = {"id": identifier, "patient": patient, "series": series, "images": images}
    columns = [f"probability_{name.replace(' ', '_')}" for name in outputs]
    if limit is not None:
        columns[0] = "probability"
    row |= zip(columns, texts, strict=True)
    if limit is not None:
        called = probabilities is not None and probabilities[0] >= limit
        row["decision"] = "" if probabilities is None else ("" if called else "not ") + outputs[0]
    return {**row, "warning": warning, "error": error}


def _one_ahead(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """The results of a function, the next one made while the caller works on the last."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        coming = executor.submit(function, items[0])
        for item in items[1:]:
            done = coming.result()
            coming = executor.submit(function, item)
            yield done
        yield coming.result()


def _threshold(threshold: str, stored: Mapping[str, float]) -> float:
    if threshold in stored:
        return stored[threshold]
    try:
        number = float(threshold)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(
            f"threshold {threshold!r} is not one of {', '.join(stored)}, nor a number in 0 to 1"
        )
    return number


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = command.make_parser("predict", __doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of a training run")
    parser.add_argument(
        "--threshold",
        default="youden",
        help="youden (default), sensitivity_90, sensitivity_95, all chosen on validation, or a "
        "number in 0 to 1",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit with an error if an image is not of the kind that the network was trained on",
    )
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the best one)")
    parser.add_argument("--heatmaps", action="store_true", help="draw an overlay of each image")
    parser.add_argument(
        "--output", metavar="DIR", help="gets predictions.csv and heatmaps/ (default: predictions)"
    )
    parser.add_argument("--data_dir", metavar="DIR", help="not needed to predict; ignored")
    return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> None:
    """Screens what the command line names."""
    failed, warned = 0, 0
    with command.user_errors(), contextlib.ExitStack() as files:
        command.start()
        output = Path(args.output or "predictions") if args.output or args.heatmaps else None
        rows = run(
            as_path(args.workdir),
            args.images,
            threshold=args.threshold,
            step=args.step,
            heatmaps=output / "heatmaps" if args.heatmaps else None,
        )
        writers: list[csv.DictWriter] = []
        for row in rows:
            if not writers:  # nothing was refused: an earlier table may go
                targets = [sys.stdout]
                if output:
                    output.mkdir(parents=True, exist_ok=True)
                    table = (output / "predictions.csv").open("w", newline="")
                    targets.append(files.enter_context(table))
                writers = [csv.DictWriter(target, list(row)) for target in targets]
                for writer in writers:
                    writer.writeheader()
            for writer in writers:
                writer.writerow(row)
            failed += bool(row["error"])
            warned += bool(row["warning"])
    if failed:
        sys.exit(f"error: {failed} images could not be used; see the column error")
    if warned and args.strict:
        sys.exit(f"error: {warned} images are of another kind; see the column warning")
    if warned:
        logging.warning("%d images are of another kind; see the column warning", warned)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
