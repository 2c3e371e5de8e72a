"""Prints what launch/leave_one_source_out.sh has measured so far, as a table in Markdown.

    python launch/unseen_table.py ROOT

A line for each source that is left out and each variant: the AUC of every seed there, the 95 %
interval of the first, and how much that is above the variant before (patients resampled together).
Of networks that segment as well, a further line with the AUC of the share of the lungs involved.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parents[1]))
from configs.unseen_source import STEPS
from jaxcovid.evaluation.saved_results import SavedResult, auc_difference, score_of
from jaxcovid.metrics.interval import Score

_HEADER = ("left out", "variant", "AUC", "95 % interval", "beyond the one before")


def lines(root: Path) -> Iterator[tuple[str, ...]]:
    """The lines of the table."""
    for left in sorted(folder for folder in root.iterdir() if folder.is_dir()):
        before = None
        for variant in (name for name in STEPS if (left / name).is_dir()):
            tests = [
                test
                for seed in sorted((left / variant).iterdir())
                for test in _tests(seed, left.name)
            ]
            if not tests:
                continue
            results = [SavedResult.read(test) for test in tests]
            metrics = [result.metrics for result in results]
            difference = auc_difference(results[0], before).text("+.3f") if before else ""
            yield left.name, variant, *_aucs([result.auc for result in results]), difference
            if all((each.get("segmentation") or {}).get("auc") for each in metrics):
                shares = [score_of(each["segmentation"]["auc"]) for each in metrics]
                yield left.name, f"{variant}: share involved", *_aucs(shares), ""
            before = results[0]


def _tests(workdir: Path, left: str) -> list[Path]:
    """The folder of the evaluation on the source that was left out; none if it is not finished."""
    where = workdir / "evaluation"
    found = [path.parent for path in where.glob("**/test/metrics.json")]
    return [x for x in found if "-".join(x.relative_to(where).parts).startswith(f"{left}-")]


def _aucs(scores: Sequence[Score]) -> tuple[str, str]:
    """The values of all seeds and the interval of the first; none without lesion in any image."""
    first = scores[0]
    interval = f"{first.low:.3f} to {first.high:.3f}" if first.has_interval else ""
    values = ["undefined" if np.isnan(x.value) else f"{x.value:.3f}" for x in scores]
    return ", ".join(values), interval


def main() -> None:
    """Parses the command line and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, metavar="ROOT")
    print(tabulate(lines(parser.parse_args().root), _HEADER, tablefmt="github"))


if __name__ == "__main__":
    main()
