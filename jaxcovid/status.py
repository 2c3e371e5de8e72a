"""Tells how a training is going, from what its processes write into the workdir.

    python -m jaxcovid.status --workdir=runs/covid_ct

Exit status: 0 if it runs or is finished, 1 if it has ended before its time or a process is silent.
Clocks of several hosts must agree to a few seconds.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from absl import app

from jaxcovid.runtime import cli
from jaxcovid.runtime.files import as_path
from jaxcovid.runtime.user_errors import user_errors


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = cli.make_parser("status", __doc__)
    parser.add_argument("--workdir", required=True, help="folder of the run")
    return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> None:
    """Prints the report."""
    from jaxcovid.workdir import status

    with user_errors():
        text, well = status.report(as_path(args.workdir), now=time.time())
    print(text)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
