"""Audits a prepared data set: what makes a score on it too good to be believed.

python -m jaxcovid.audit covid_ct
python -m jaxcovid.audit covid_chestxray --report=DIR
python -m jaxcovid.audit covid_ct+sars_cov_2_ct

Are patients and source documents in one split each? Is a picture in two splits, or in two classes?
Do format, size, border or view give the class away? audit.json and audit.html go beside the
data set, where evaluations find them, and into --report; the exit status is 1 if a check failed.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, logging

import jaxcovid
from jaxcovid.runtime import cli
from jaxcovid.runtime.files import as_path, write_atomically
from jaxcovid.runtime.user_errors import user_errors


def run(
    name: str,
    *,
    data_dir: str | None = None,
    positive: str | None = None,
    report: Path | None = None,
) -> dict[str, Any]:
    """Audits a data set, and writes `audit.json` and `audit.html` beside it.

    Args:
      name: of a prepared data set, or of several joined by "+".
      data_dir: where data sets are kept; None is `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
      positive: see `audits.audit.audit_dataset`.
      report: folder that gets another copy of both files.

    Returns:
      The content of `audit.json`, see `audits.audit.Audit.as_dict`.

    Raises:
      ValueError: no such class or finding.
      OSError: the data set is not prepared, or the report cannot be written.
    """
    from jaxcovid.audits.audit import FILE, audit_dataset
    from jaxcovid.data.opening import open_dataset
    from jaxcovid.report import audit_page

    dataset = open_dataset(name, data_dir)
    folders = [dataset.directory, *([report] if report else [])]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    audit = audit_dataset(dataset, positive=positive)
    content = audit.as_dict(version=jaxcovid.__version__, report=str(folders[-1] / audit_page.FILE))
    page = audit_page.render_audit(audit, content)
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    for folder in folders:
        write_atomically(folder / audit_page.FILE, page.encode())
        write_atomically(folder / FILE, text.encode())
    return content


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.make_parser("audit", __doc__)
    parser.add_argument("dataset", metavar="DATASET", help="a prepared data set, or several: A+B")
    parser.add_argument(
        "--report",
        metavar="DIR",
        help="gets another copy of audit.json and audit.html",
    )
    parser.add_argument(
        "--positive", metavar="NAME", help="class or finding to separate from the rest"
    )
    parser.add_argument("--data_dir", metavar="DIR", help=cli.DATA_DIR_HELP)
    return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> None:
    """Audits what the command line names and prints the verdicts."""
    logging.set_verbosity(logging.WARNING)  # TFDS logs every file it reads
    with user_errors():
        audit = run(
            args.dataset,
            data_dir=args.data_dir,
            positive=args.positive,
            report=as_path(args.report) if args.report else None,
        )
    for check in audit["checks"]:
        print(f"{check['verdict']:>8}  {check['name']}: {check['summary']}")
    print(f"report: {audit['report']}")
    if audit["verdict"] == "failed":
        sys.exit(1)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
