"""Screens images with a trained network: CSV of probability and decision of each on stdout.

python -m jaxcovid.predict --workdir=runs/covid_ct scan.png folder/ > predictions.csv
python -m jaxcovid.predict --workdir=runs/covid_ct --heatmaps --output=screened folder/
python -m jaxcovid.predict --workdir=runs/lesion --segment --output=screened scan.nii.gz
python -m jaxcovid.predict --model=exported --engine=openvino --segment folder/

Slices of a volume (NIfTI, .npy of Hounsfield units, DICOM of several frames), of a DICOM series or
of a patient get a row together as well: the mean of their probabilities. Scouts, slices that are
not axial and objects without pixels are left out and counted. An image that cannot be used gets a
row with its error; the others are finished, and the exit status is 1. For research only: no
diagnosis.
"""

import argparse
import contextlib
import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, logging

from jaxcovid.runtime import cli
from jaxcovid.runtime.files import as_path
from jaxcovid.runtime.user_errors import user_errors


def run(
    folder: Path,
    paths: Sequence[str | Path],
    *,
    engine: str = "jax",
    threshold: str = "youden",
    step: int | None = None,
    heatmaps: Path | None = None,
    segment: Path | None = None,
    **reading: Any,
) -> Iterator[dict[str, Any]]:
    """Yields a row for each image, in order; see `inference.screening.screen` and `Reading`.

    Args:
      folder: a workdir for the engine jax, for others the folder of an exported network.
      paths: images and folders.
      engine: what computes; see `inference.engines`.
      threshold: see `screen`.
      step: of the checkpoint of a workdir; None is the best one by validation AUC.
      heatmaps: see `screen`.
      segment: see `screen`.
      **reading: see `Reading`.
    """
    from jaxcovid.inference.load import load_network
    from jaxcovid.inference.screening import Reading, screen

    return screen(
        lambda: load_network(folder, engine, step=step),
        paths,
        Reading(**reading),
        threshold=threshold,
        heatmaps=heatmaps,
        segment=segment,
    )


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.make_parser("predict", __doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER")
    cli.add_network_options(parser)
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
        "--segment",
        action="store_true",
        help="outline and write the masks of lungs and lesion, of a network with a decoder",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="gets predictions.csv, heatmaps/, contours/ and masks/ (default: predictions)",
    )
    cli.add_reading_options(parser, window="that of the training", every=1)
    args = parser.parse_args(argv[1:])
    cli.choose_engine(parser, args)
    if args.model and args.step is not None:
        parser.error("--step is of a --workdir; an exported network has one step")
    return args


def _write_rows(rows: Iterator[Mapping[str, Any]], output: Path | None) -> tuple[int, int]:
    """Writes a table to stdout and into a folder; counts rows with errors and with warnings."""
    failed, warned = 0, 0
    writers: list[csv.DictWriter] = []
    with contextlib.ExitStack() as files:
        for row in rows:
            if not writers:  # nothing was refused: an earlier table may be replaced
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
    return failed, warned


def main(args: argparse.Namespace) -> None:
    """Screens what the command line names."""
    with user_errors():
        cli.start() if args.engine == "jax" else cli.open_log()
        wanted = args.output or args.heatmaps or args.segment
        output = as_path(args.output or "predictions") if wanted else None
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8
        rows = run(
            as_path(args.workdir or args.model),
            args.images,
            engine=args.engine,
            threshold=args.threshold,
            step=args.step,
            heatmaps=output / "heatmaps" if args.heatmaps else None,
            segment=output if args.segment else None,
            every=args.every,
            window=args.window,
            hu_offset=args.hu_offset,
            pseudonyms=args.pseudonyms,
        )
        failed, warned = _write_rows(rows, output)
    if failed:
        sys.exit(f"error: {failed} images could not be used; see the column error")
    if warned and args.strict:
        sys.exit(f"error: {warned} images are of another kind; see the column warning")
    if warned:
        logging.warning("%d images are of another kind; see the column warning", warned)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
