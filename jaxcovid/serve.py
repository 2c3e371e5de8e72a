"""A page on this machine to screen images, look at them, and compare networks.

python -m jaxcovid.serve --workdir=runs/covid_ct
python -m jaxcovid.serve --workdir=runs/covid_ct,runs/lesion --port=8080
python -m jaxcovid.serve --model=exported --engine=openvino
JAXCOVID_TOKEN=... python -m jaxcovid.serve --model=exported --host=0.0.0.0 \
    --certificate=cert.pem --key=key.pem

Prints the address of the page. Pictures, folders, zip files, DICOM series and volumes are dropped
there, or sent by a program (the address with /docs says how). By default only this machine is
served and nothing is kept after a page is closed; docs/serve.md says more. For research only: no
diagnosis.
"""

import argparse
import logging
from collections.abc import Sequence

from absl import app

from jaxcovid.runtime import cli, log_lines
from jaxcovid.runtime.files import as_path
from jaxcovid.runtime.user_errors import user_errors

_MIB = 2**20


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.make_parser("serve", __doc__)
    cli.add_network_options(parser, metavar="DIR[,DIR]")
    parser.add_argument(
        "--threshold", default="youden", help="as that of jaxcovid.predict (default: youden)"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine alone)"
    )
    parser.add_argument("--port", type=int, default=8000, help="TCP; 0 takes a free one")
    parser.add_argument(
        "--certificate", metavar="FILE", help="of TLS, PEM; so that others cannot listen"
    )
    parser.add_argument("--key", metavar="FILE", help="of the certificate")
    parser.add_argument(
        "--keep", metavar="DIR", help="gets table and reports of each page when it is closed"
    )
    parser.add_argument(
        "--log_names", action="store_true", help="write names of files into the log, too"
    )
    parser.add_argument(
        "--upload_mb", type=int, default=512, help="most MiB of one file (default: 512)"
    )
    parser.add_argument(
        "--idle_s",
        type=float,
        default=90,
        help="a page that nothing was heard of for so many seconds is closed (default: 90)",
    )
    args = parser.parse_args(argv[1:])
    cli.choose_engine(parser, args)
    if args.upload_mb < 1 or not args.idle_s >= 1:
        parser.error("--upload_mb and --idle_s must be 1 or more")
    if bool(args.certificate) != bool(args.key):
        parser.error("--certificate and --key go together")
    return args


def main(args: argparse.Namespace) -> None:
    """Serves until it is interrupted."""
    with user_errors():
        form = log_lines.JsonLines()
        cli.start(form=form) if args.engine == "jax" else cli.open_log(form)
        logging.captureWarnings(True)  # those of libraries are lines of the log, too
        from jaxcovid.serving import server
        from jaxcovid.serving.limits import Limits

        server.check_installed()  # before a network is loaded
        place = server.Place(args.host, args.port, args.certificate, args.key)
        folders = [as_path(name) for name in (args.workdir or args.model).split(",")]
        with place.listen() as listening:  # before a network is loaded, too
            server.serve(
                server.load(folders, args.engine, args.threshold),
                place,
                listening,
                limits=Limits(upload_bytes=args.upload_mb * _MIB, idle_s=args.idle_s),
                keep=as_path(args.keep) if args.keep else None,
                log_names=args.log_names,
            )


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
