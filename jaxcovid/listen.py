"""Takes images by DICOM, screens each series, and gives the answer back as DICOM.

python -m jaxcovid.listen --workdir=runs/covid_ct --results=screened
python -m jaxcovid.listen --model=exported --engine=openvino --results=screened \
    --host=0.0.0.0 --allow=CT1,PACS --send_to=PACS@192.168.1.20:104
python -m jaxcovid.listen --workdir=runs/covid_ct --results=screened --watch=incoming --once

A scanner or an archive sends images to the AE title and port. Once nothing of a series has arrived
for some seconds it is screened. The folder of results gets a DICOM picture (Secondary Capture) of
the most suspicious slice, a DICOM segmentation if the network has a decoder, and a row in
results.csv. Received files are removed then. A watched folder is only read. docs/dicom.md says
more. For research only: no diagnosis.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import app

from jaxcovid.runtime import cli
from jaxcovid.runtime.files import as_path
from jaxcovid.runtime.user_errors import user_errors

if TYPE_CHECKING:
    from jaxcovid.serving.screener import Screener

_ENGINES = ("jax", "onnxruntime", "openvino")


def load(folder: Path, engine: str, threshold: str) -> "Screener":
    """Loads a network.

    Args:
      folder: a workdir for the engine jax, for others the folder of an exported network.
      engine: what computes; see `inference.engines`.
      threshold: see `inference.screening.screen`.

    Raises:
      ValueError: there is no such network, or it takes several slices at once.
    """
    from jaxcovid.serving.screener import Screener

    name = folder.resolve().name
    if engine != "jax":
        from jaxcovid.inference import engines

        return Screener(engines.load(folder, engine), name, threshold)
    from jaxcovid.data.volume_source import check_single_images
    from jaxcovid.inference import predictor

    network = predictor.load(folder)
    check_single_images(network.run.volume_slices)
    return Screener(network, f"{name}, step {network.step}", threshold)


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.make_parser("listen", __doc__)
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--workdir", metavar="DIR", help="of a training run")
    network.add_argument(
        "--model", metavar="DIR", help="that jaxcovid.export --format=onnx wrote; needs no JAX"
    )
    parser.add_argument(
        "--engine",
        choices=_ENGINES,
        help="what computes: jax for --workdir; for --model onnxruntime (default) or openvino",
    )
    parser.add_argument(
        "--threshold", default="youden", help="as that of jaxcovid.predict (default: youden)"
    )
    parser.add_argument("--results", required=True, metavar="DIR", help="gets all that is written")
    parser.add_argument("--port", type=int, default=11112, help="TCP (default: 11112)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine alone)"
    )
    parser.add_argument("--ae_title", default="JAXCOVID", help="own name (default: JAXCOVID)")
    parser.add_argument(
        "--allow",
        default="",
        metavar="AE1,AE2",
        help="AE titles that may send; needed where other machines can reach the port",
    )
    parser.add_argument("--send_to", metavar="AE@host:port", help="node that gets the answers")
    parser.add_argument("--watch", metavar="DIR", help="folder whose images are screened too")
    parser.add_argument(
        "--quiet_s",
        type=float,
        default=5,
        metavar="S",
        help="a series is complete when nothing of it has come for so long (default: 5)",
    )
    parser.add_argument(
        "--keep_sources", action="store_true", help="keep received files that were answered"
    )
    parser.add_argument(
        "--once", action="store_true", help="answer what is there and end, without listening"
    )
    args = parser.parse_args(argv[1:])
    args.engine = args.engine or ("jax" if args.workdir else "onnxruntime")
    if (args.engine == "jax") == bool(args.model):
        needed = "--workdir of a training run" if args.model else "--model of an export"
        parser.error(f"--engine={args.engine} needs the {needed}")
    if not args.quiet_s >= 0:
        parser.error(f"--quiet_s={args.quiet_s} must be 0 or more")
    return args


def main(args: argparse.Namespace) -> None:
    """Serves as the command line says."""
    with user_errors():
        cli.start() if args.engine == "jax" else cli.open_log()
        from jaxcovid.serving import dicom_listener
        from jaxcovid.serving.dicom_sender import Peer

        dicom_listener.check_installed()
        from jaxcovid.serving import listening  # which imports what that has checked

        titles = dicom_listener.parse_titles(args.allow)
        address = dicom_listener.Address(args.ae_title, args.host, args.port, titles)
        service = listening.Service(
            results=as_path(args.results),
            address=None if args.once else address,
            peer=Peer.parse(args.send_to) if args.send_to else None,
            watch=as_path(args.watch) if args.watch else None,
            quiet_s=args.quiet_s,
            keep_sources=args.keep_sources,
        )
        listening.run(
            load(as_path(args.workdir or args.model), args.engine, args.threshold), service
        )


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
