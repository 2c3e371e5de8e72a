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

from absl import app

from jaxcovid.runtime import cli, log_lines
from jaxcovid.runtime.files import as_path
from jaxcovid.runtime.user_errors import user_errors


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.make_parser("listen", __doc__)
    cli.add_network_options(parser)
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
    cli.choose_engine(parser, args)
    if not args.quiet_s >= 0:
        parser.error(f"--quiet_s={args.quiet_s} must be 0 or more")
    return args


def main(args: argparse.Namespace) -> None:
    """Serves as the command line says."""
    with user_errors():
        form = log_lines.plain(log_lines.DATE_AND_TIME)
        cli.start(form=form) if args.engine == "jax" else cli.open_log(form)
        from jaxcovid.inference.load import load_network
        from jaxcovid.listening import listener
        from jaxcovid.listening.screener import Screener
        from jaxcovid.listening.sender import Peer

        listener.check_installed()
        from jaxcovid.listening import service as node  # which imports what that has checked

        titles = listener.parse_titles(args.allow)
        address = listener.Address(args.ae_title, args.host, args.port, titles)
        service = node.Service(
            results=as_path(args.results),
            address=None if args.once else address,
            peer=Peer.parse(args.send_to) if args.send_to else None,
            watch=as_path(args.watch) if args.watch else None,
            quiet_s=args.quiet_s,
            keep_sources=args.keep_sources,
        )
        folder = as_path(args.workdir or args.model)
        network = load_network(folder, args.engine)
        name = f"{folder.resolve().name}, step {network.step}"  # of an export, too
        node.run(Screener(network, name, args.threshold), service)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
