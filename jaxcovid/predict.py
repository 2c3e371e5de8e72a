"""Screens images with a trained network: CSV of probability and decision of each on stdout.

python -m jaxcovid.predict --workdir=runs/covid_ct scan.png folder/ > predictions.csv
python -m jaxcovid.predict --workdir=runs/covid_ct --heatmaps --output=screened folder/

Slices of a volume (NIfTI, .npy of Hounsfield units, DICOM of several frames), of a DICOM series or
of a patient get a row together as well: the mean of their probabilities. Scouts, slices that are
not axial and objects without pixels are left out and counted. An image that cannot be used gets a
row with its error; the others are finished, and the exit status is 1. For research only: no
diagnosis.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import csv
import hashlib
import itertools
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import app, logging

from jaxcovid.runtime import cli
from jaxcovid.runtime.files import as_path


def run(
    workdir: Path,
    paths: Sequence[str | Path],
    *,
    threshold: str = "youden",
    step: int | None = None,
    heatmaps: Path | None = None,
    every: int = 1,
    window: tuple[float, float] | None = None,
    hu_offset: float | None = None,
    pseudonyms: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields a row for each image, in order.

    Args:
      workdir: of a training run.
      paths: images and folders.
      threshold: name of a stored threshold (`youden`, `sensitivity_90`, `sensitivity_95`) or a
        number in 0 to 1.
      step: of the checkpoint; None is the best one by validation AUC.
      heatmaps: folder for an overlay of each image; None makes none.
      every: of volumes every how many slices are screened.
      window: centre and width in Hounsfield units, for CT; None is that of the training.
      hu_offset: what makes Hounsfield units of the values of 16-bit PNG and TIFF; None is that of
        the training.
      pseudonyms: key file; ids of patients and series are replaced by keyed pseudonyms.

    Yields:
      Rows of the same columns: `id`; of DICOM `patient` and `series`; `images`, how many it is
      about; `probability` of the positive class and `decision` (not of a network for findings);
      `probability_NAME` of the other outputs; `heatmap`, the file in the folder (of findings
      several, with ";" between), if there is a folder; `warning` of an image that is not of the
      kind that the network was trained on; `error`, else empty. First a row for each image, then
      one for each volume, DICOM series and patient of several.

    Raises:
      ValueError: not a workdir, an unknown threshold, a key that is too short.
      OSError: a path that does not exist, a folder that cannot be written.
    """
    import dataclasses

    from jaxcovid.data import pseudonyms as keys
    from jaxcovid.data.dicom import counted_warnings
    from jaxcovid.data.image_files import counts_text, every_nth
    from jaxcovid.inference import predictor as predictors
    from jaxcovid.inference import screening

    every_nth(1, every)
    key = keys.read_key(pseudonyms) if pseudonyms else None
    left_out: collections.Counter[str] = collections.Counter()
    files = screening.list_files(paths, left_out)
    predictor = predictors.load(workdir, step=step)
    if window:
        predictor = dataclasses.replace(predictor, window=window)
    if hu_offset is not None:
        predictor = dataclasses.replace(predictor, hu_offset=hu_offset)
    if not predictor.screening and threshold != "youden":
        raise ValueError("a network for findings has no thresholds; leave --threshold out")
    limit = _threshold(threshold, predictor.thresholds) if predictor.screening else None
    if heatmaps and not predictor.has_gradcam:
        raise ValueError("part 3 of this network is switched off; leave --heatmaps out")
    if heatmaps:
        heatmaps.mkdir(parents=True, exist_ok=True)
    row = partial(_row, outputs=predictor.outputs, limit=limit, drawn=heatmaps is not None)
    reader = screening.Reader(predictor, every=every, pseudonyms=key)
    groups = screening.Groups()
    with counted_warnings():
        opened = reader.open(files)
        for batch in _one_ahead(lambda: list(itertools.islice(opened, predictor.batch_size))):
            usable = [image for image in batch if image.gray is not None]
            grays = [image.gray for image in usable]
            scores = iter(predictor.probabilities(grays) if usable else [])
            names = [image.name for image in usable] if heatmaps else []
            pictures = iter(_draw_heatmaps(predictor, grays, names, heatmaps) if names else [])
            for image in batch:
                ids = {"patient": image.patient, "series": image.series}
                if image.gray is None:
                    yield row(image.name, error=image.error, **ids)
                    continue
                probabilities = next(scores)
                groups.add(image, probabilities)
                yield row(
                    image.name,
                    probabilities,
                    warning=predictor.warning(image.gray, image.colour),
                    heatmap=next(pictures, ""),
                    **ids,
                )
        for kind, name, patient, members in groups.means():
            series = name if kind == "series" else ""
            mean = sum(members) / len(members)
            ids = {"patient": patient, "series": series}
            yield row(f"{kind} {name}", mean, images=len(members), **ids)
    if text := counts_text(left_out + reader.left_out):
        logging.warning("Left out: %s", text)
    for note, count in sorted(reader.notes.items()):
        if count:
            logging.warning("%d %s", count, note)


def _draw_heatmaps(
    predictor: Any, grays: Sequence[Any], names: Sequence[str], folder: Path
) -> list[str]:
    """Writes an overlay of each image, of findings one for each; returns the names of the files."""
    import cv2

    from jaxcovid.report.figures import overlay

    suffixes = [""] if predictor.screening else [f"_{name}" for name in predictor.outputs]
    files: list[list[str]] = [[_picture_name(name, s) for s in suffixes] for name in names]
    for output in range(len(suffixes)):
        cams = predictor.heatmaps(grays, output=output)
        for gray, cam, of_image in zip(grays, cams, files, strict=True):
            picture = cv2.cvtColor(overlay(gray, cam), cv2.COLOR_RGB2BGR)
            (folder / of_image[output]).write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return [";".join(of_image) for of_image in files]


def _picture_name(name: str, suffix: str) -> str:
    """The file name of a heatmap: one for each image, none of which leads out of the folder.

    The last part of the image's name for people, and a hash of the whole of it, as images of
    several folders may share that part.
    """
    last = re.sub(r"[^\w.-]", "_", name.rpartition("/")[2], flags=re.ASCII).lstrip(".")
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return re.sub(r"[/\\\0]", "_", f"{last[:100]}_{digest}{suffix}.png")


def _row(
    identifier: str,
    probabilities: Sequence[float] | None = None,
    *,
    outputs: Sequence[str],
    limit: float | None,
    patient: str = "",
    series: str = "",
    drawn: bool = False,
    images: int = 1,
    heatmap: str = "",
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
    if drawn:
        row["heatmap"] = heatmap
    return {**row, "warning": warning, "error": error}


def _one_ahead(next_batch: Callable[[], list[Any]]) -> Iterator[list[Any]]:
    """Batches until an empty one, the next one made while the caller works on the last."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        coming = executor.submit(next_batch)
        while batch := coming.result():
            coming = executor.submit(next_batch)
            yield batch


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
    parser = cli.make_parser("predict", __doc__)
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
    cli.add_reading_options(parser, window="that of the training", every=1)
    parser.add_argument("--data_dir", metavar="DIR", help="not needed to predict; ignored")
    return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> None:
    """Screens what the command line names."""
    failed, warned = 0, 0
    with cli.user_errors(), contextlib.ExitStack() as files:
        cli.start()
        output = as_path(args.output or "predictions") if args.output or args.heatmaps else None
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8
        rows = run(
            as_path(args.workdir),
            args.images,
            threshold=args.threshold,
            step=args.step,
            heatmaps=output / "heatmaps" if args.heatmaps else None,
            every=args.every,
            window=args.window,
            hu_offset=args.hu_offset,
            pseudonyms=args.pseudonyms,
        )
        writers: list[csv.DictWriter] = []
        for row in rows:
            if not writers:  # nothing was refused: an earlier table may go
                targets = [sys.stdout]
                if output:
                    output.mkdir(parents=True, exist_ok=True)
                    table = (output / "predictions.csv").open("w", newline="", encoding="utf-8")
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
