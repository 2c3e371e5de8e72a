"""Audits a prepared data set: what makes a score on it too good to be believed.

python -m jaxcovid.audit covid_ct
python -m jaxcovid.audit covid_chestxray --report=DIR

Are patients and source documents in one split each? Does a picture stand in two splits, or under
two classes? Do format, size, border or view tell the class? audit.json and audit.html go beside the
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
from jaxcovid.runtime.files import as_path

FILE, PAGE = "audit.json", "audit.html"
_SHOWN = 60  # pairs and rows on the page; audit.json has all


def run(
    name: str,
    *,
    data_dir: str | None = None,
    positive: str | None = None,
    report: Path | None = None,
) -> dict[str, Any]:
    """Audits a data set.

    Args:
      name: of a prepared data set.
      data_dir: where data sets are kept; None is `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
      positive: the class or finding to tell from the rest; None is COVID-19, else pneumonia, else
        the first.
      report: folder of another copy of the report, beside that in the data set's own.

    Returns:
      The content of `audit.json`: `dataset`, `digest`, `positive`, `verdict` (the worst), `report`
      (path of the page) and `checks`, see `audits.check.Check`.

    Raises:
      ValueError: no such class or finding.
      OSError: the data set is not prepared, or the report cannot be written.
    """
    import dataclasses

    from jaxcovid.audits.check import FAILED, PASSED, WARNING
    from jaxcovid.audits.confounders import check_confounders
    from jaxcovid.audits.duplicates import check_duplicates, find_pairs, side_by_side
    from jaxcovid.audits.items import read_items
    from jaxcovid.audits.splits import check_splits
    from jaxcovid.data.datasets import open_dataset
    from jaxcovid.report import pages
    from jaxcovid.runtime import files

    dataset = open_dataset(name, data_dir)
    positive = _positive([*dataset.class_names, *dataset.finding_names], positive)
    if report:
        report.mkdir(parents=True, exist_ok=True)
    items = read_items(dataset)
    pairs = find_pairs(items)
    checks = [
        *check_splits(dataset, items),
        *check_duplicates(dataset, items, pairs),
        check_confounders(dataset, items, positive=positive),
    ]
    verdicts = {check.verdict for check in checks}
    audit = {
        "dataset": dataset.name,
        "digest": dataset.digest,
        "positive": positive,
        "version": jaxcovid.__version__,
        "verdict": next(v for v in (FAILED, WARNING, PASSED) if v in verdicts),
        "report": str((report or dataset.directory) / PAGE),
        "checks": [dataclasses.asdict(check) for check in checks],
    }
    suspected = [
        pair
        for pair in pairs
        if items[pair.first].split != items[pair.second].split
        or items[pair.first].record["patient"] != items[pair.second].record["patient"]
    ][:_SHOWN]
    page = pages.render_page(
        "audit.html.jinja",
        {str(i): side_by_side(items, pair) for i, pair in enumerate(suspected)},
        audit=audit,
        shown=_SHOWN,
        pairs=[
            {
                "kind": pair.kind,
                "correlation": pair.correlation,
                "names": [
                    f"{items[i].split}: {items[i].record['id']}" for i in (pair.first, pair.second)
                ],
            }
            for pair in suspected
        ],
    )
    content = json.dumps(audit, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    for name, text in ((PAGE, page), (FILE, content)):
        for folder in (dataset.directory, *([report] if report else [])):
            files.write_atomically(folder / name, text.encode())
    return audit


def _positive(names: Sequence[str], wanted: str | None) -> str:
    if wanted and wanted not in names:
        raise ValueError(f"no class or finding {wanted!r}; there are {', '.join(names)}")
    usual = [name for name in ("COVID-19", "pneumonia", "Pneumonia") if name in names]
    return wanted or [*usual, *names][0]


def _parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.make_parser("audit", __doc__)
    parser.add_argument("dataset", metavar="DATASET", help="a prepared data set")
    parser.add_argument(
        "--report",
        metavar="DIR",
        help="gets another copy of audit.json and audit.html",
    )
    parser.add_argument("--positive", metavar="NAME", help="class or finding told from the rest")
    parser.add_argument("--data_dir", metavar="DIR", help=cli.DATA_DIR_HELP)
    return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> None:
    """Audits what the command line names and prints the verdicts."""
    logging.set_verbosity(logging.WARNING)  # TFDS logs every file it reads
    with cli.user_errors():
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
