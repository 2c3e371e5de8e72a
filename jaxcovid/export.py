"""Exports a trained network for use without jaxcovid.

python -m jaxcovid.export --workdir=runs/covid_ct --format=onnx
python -m jaxcovid.export --workdir=runs/covid_ct --format=onnx --int8 --output=small
python -m jaxcovid.export --workdir=runs/covid_ct --format=stablehlo --output=exported

Of gray images of any size the program makes calibrated probabilities, heatmaps and masks of lungs
and lesion, with the preprocessing inside; torch writes the weights alone, with torchvision's names.
Beside it are a manifest (classes, threshold, input range, checksums) and what is needed to warn of
unusual images. For research only: no diagnosis.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import app

from jaxcovid.runtime import cli
from jaxcovid.runtime.files import as_path
from jaxcovid.runtime.user_errors import user_errors

if TYPE_CHECKING:
    from jaxcovid.data.datasets import Dataset

_FORMATS = ("stablehlo", "savedmodel", "onnx", "torch")  # `export.FORMATS`, which imports JAX


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.make_parser("export", __doc__)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of a training run")
    parser.add_argument("--format", required=True, choices=_FORMATS)
    parser.add_argument(
        "--output", metavar="DIR", help="gets the files (default: WORKDIR/export/FORMAT)"
    )
    parser.add_argument("--step", type=int, help="of the checkpoint (default: the best one)")
    parser.add_argument(
        "--input",
        choices=("pixels", "network"),
        default="pixels",
        help="pixels: gray images of any size, 0 to 255; network: images after preprocessing",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="of onnx: 8 bits, from images of the training split; refused if the AUC on validation "
        "falls by .005",
    )
    parser.add_argument("--data_dir", metavar="DIR", help=f"int8: {cli.DATA_DIR_HELP}")
    return parser.parse_args(argv[1:])


def _dataset(args: argparse.Namespace) -> "Dataset":
    """The data set of the training."""
    from jaxcovid.data.opening import open_dataset
    from jaxcovid.workdir.run import Run

    return open_dataset(Run.load(as_path(args.workdir)).dataset.name, args.data_dir)


def main(args: argparse.Namespace) -> None:
    """Exports what the command line names."""
    with user_errors():
        cli.start()
        from jaxcovid.weights.export.export import export

        folder = export(
            as_path(args.workdir),
            args.format,
            output=as_path(args.output) if args.output else None,
            step=args.step,
            input_name=args.input,
            int8=_dataset(args) if args.int8 else None,
        )
        print(folder)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
