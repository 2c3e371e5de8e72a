"""Writes tables.html and tables.md of what `launch/paper_tables.sh` has measured so far.

    python launch/paper_page.py ROOT [--seeds=N] [--tables=V,VI]

The options of the trainings, `--quick` among them, must be those that ROOT was begun with.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr
from scipy.special import stdtr, stdtrit
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parents[1]))
from jaxcovid.evaluation.published import published_scores
from jaxcovid.evaluation.saved_results import SavedResult, auc_difference, score_of
from jaxcovid.inference import predictor
from jaxcovid.metrics.interval import Score
from jaxcovid.report.curves import roc_figure
from jaxcovid.report.pages import render_page
from launch import paper_data
from launch.paper_methods import Method, methods
from launch.paper_plan import QUICK, parse_options

OURS = {"III": "Deep-CT-Net", "IV": "Deep-CT-Net", "V": "Deep-CT-Net", "VI": "Deep-CXR-Net"}
PUBLISHED = {
    "III": published_scores(trained_on="ct_cov19", tested_on="ct_cov19"),
    "IV": published_scores(trained_on="ct_cov19", tested_on="covid_ct"),
    "V": published_scores(trained_on="covid_ct", tested_on="covid_ct"),
    "VI": published_scores(trained_on="covid_chestxray", tested_on="covid_chestxray"),
}
_SCORES = {"precision": "precision", "recall": "recall", "F": "f", "accuracy": "accuracy"}


@dataclass(frozen=True)
class Line:
    """A method with what was measured of it.

    Attributes:
      method: what it is.
      results: of seed 0 and those after it, up to the first that is not finished.
      cost: see `cost_of`; empty if there is no result.
    """

    method: Method
    results: Sequence[SavedResult]
    cost: Mapping[str, str]


def lines(root: Path, tables: Sequence[str], seeds: int) -> Iterator[Line]:
    """The methods of tables with their results."""
    for method in methods(root, tables):
        folders = [method.result(root, seed) for seed in range(seeds)]
        results = [SavedResult.read(folder) for folder in takewhile(bool, folders)]
        cost = cost_of(method.workdirs(root, 0)) if results else {}
        yield Line(method, results, cost)


def cost_of(workdirs: Sequence[Path]) -> dict[str, str]:
    """Parameters, operations, memory and speed of training of networks, all of them together."""
    parameters, operations, memory, seconds = 0, 0.0, 0, 0.0
    for workdir in workdirs:
        network = predictor.load(workdir)
        flat = jax.tree_util.tree_leaves_with_path(network.variables)  # frozen parts, too
        parameters += sum(x.size for path, x in flat if "batch_stats" not in keystr(path))
        size = network.preprocessing.size
        image = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
        apply = jax.jit(lambda variables, x, model=network.model: model.apply(variables, x))
        lowered = apply.lower(network.variables, image)
        operations += lowered.cost_analysis()["flops"]
        needed = lowered.compile().memory_analysis()
        memory += needed.argument_size_in_bytes + needed.temp_size_in_bytes
        logged = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
        speed = np.median([x["images_per_s"] for x in logged if "images_per_s" in x])
        seconds += 1 / (speed * max(1, network.run.volume_slices))  # of a volume network, slices
    return {
        "parameters": f"{parameters / 1e6:.1f} M",
        "GFLOPs an image": f"{operations / 1e9:.2f}",
        "MiB for an image": f"{memory / 2**20:.0f}",
        "images/s, training (its last stage)": f"{1 / seconds:.1f}",
    }


def table(number: str, found: Sequence[Line]) -> list[dict[str, str]]:
    """The rows of a table: the published scores, ours, and how ours compare."""
    published = {row.method: row for row in PUBLISHED[number].rows}
    ours = next(line for line in found if line.method.name == OURS[number])
    compared = _holm([_beyond(ours, line) for line in found], _patients(ours))
    rows = []
    for line, difference in zip(found, compared, strict=True):
        name = line.method.name
        if name in published:
            scores = {x: _plain(getattr(published[name], y)) for x, y in _SCORES.items()}
            scores["AUC"] = _plain(published[name].auc)
            rows.append({"method": f"{name}, published", **scores})
        rows.append({"method": f"{name}, here", **_measured(line), "ours beyond it": difference})
    return _filled(rows)


def costs(found: Sequence[Line]) -> list[dict[str, str]]:
    """What each method that is finished costs; none if nothing is."""
    return [{"method": line.method.name, **line.cost} for line in found if line.cost]


def ablation(found: Sequence[Line]) -> list[dict[str, str]]:
    """The rows of the ablation: what changes, and by how much the AUC does."""
    whole = found[0]
    differences = [_beyond(line, whole) for line in found]
    corrected = _holm(differences, _patients(whole))
    rows = [
        {"change": line.method.name, **_measured(line), "change of the AUC": difference}
        for line, difference in zip(found, corrected, strict=True)
    ]
    return _filled(rows)


def ranks(found: Sequence[Line]) -> str:
    """How the methods of a table that scored the same images rank by AUC, for each seed."""
    finished = [line for line in found if line.results]
    ids = finished[0].results[0].predictions.ids if finished else ()
    finished = [line for line in finished if line.results[0].predictions.ids == ids]
    seeds = min((len(line.results) for line in finished), default=0)
    orders = []
    for seed in range(seeds):
        order = sorted(finished, key=lambda line: -np.nan_to_num(line.results[seed].auc.value))
        orders.append(" > ".join(line.method.name for line in order))
    return "; ".join(f"seed {seed}: {order}" for seed, order in enumerate(orders))


def note(found: Sequence[Line]) -> str:
    """On what data the results were had, which need not be the paper's."""
    runs = [line.results[0].metrics["run"] for line in found if line.results]
    pairs = dict.fromkeys((run["trained on"], run["dataset"]) for run in runs)
    return "; ".join(f"Here: trained on {a}, tested on {b}" for a, b in pairs)


def figures(number: str, found: Sequence[Line], root: Path) -> dict[str, bytes]:
    """ROC curves of a table's methods and heatmaps of ours, as the paper's Figs. 5, 6, 8 and 9."""
    title = PUBLISHED[number].title
    first = {line.method.name: line.results[0] for line in found if line.results}
    if not first:
        return {}
    curves = {x: (r.predictions.positive, r.predictions.probability) for x, r in first.items()}
    aucs = {name: result.auc for name, result in first.items()}
    drawn = {
        f"{title}: ROC curves": roc_figure(
            curves, aucs=aucs, thresholds={}, title=f"Table {number}"
        )
    }
    ours = next(line.method for line in found if line.method.name == OURS[number])
    folder = ours.result(root, 0)
    if folder and (folder / "heatmaps.png").is_file():
        drawn[f"{title}: heatmaps of {OURS[number]}"] = (folder / "heatmaps.png").read_bytes()
    return drawn


def _measured(line: Line) -> dict[str, str]:
    """Ours, with intervals; or why there is nothing."""
    if not line.results:
        return {"AUC": line.method.missing or "not finished"}
    metrics = line.results[0].metrics
    point = metrics["operating_points"]["youden"]
    seeds = [result.auc.value for result in line.results]
    row = {label: score_of(point[name]).text() for label, name in _SCORES.items()}
    row["AUC"] = line.results[0].auc.text()
    if len(seeds) > 1:
        row["AUC, mean of seeds"] = f"{np.mean(seeds):.3f} ± {np.std(seeds, ddof=1):.3f}"
    return row


def _beyond(one: Line, other: Line) -> Score | None:
    """The AUC of one less that of the other; None if either is missing, or both are the same.

    None, too, if one scored slices and the other volumes.
    """
    if one is other or not one.results or not other.results:
        return None
    if one.results[0].predictions.ids != other.results[0].predictions.ids:
        return None
    return auc_difference(one.results[0], other.results[0])


def _patients(line: Line) -> int:
    return len(set(line.results[0].predictions.patients)) if line.results else 0


def _holm(differences: Sequence[Score | None], patients: int) -> list[str]:
    """Differences with intervals and p, which Holm's method corrects for their number.

    As the intervals, p is by Student's t with one degree of freedom less than patients.
    """
    p = {}
    for i, score in enumerate(differences):
        if score is not None and not np.isnan(score.low) and score.high > score.low:
            error = (score.high - score.low) / 2 / stdtrit(patients - 1, 0.975)
            p[i] = 2 * stdtr(patients - 1, -abs(score.value) / error)
    corrected, least = {}, 0.0
    for rank, i in enumerate(sorted(p, key=p.__getitem__)):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = least
    return [
        ""
        if score is None
        else score.text("+.3f") + (f", p {corrected[i]:.2g}" if i in corrected else "")
        for i, score in enumerate(differences)
    ]


def _filled(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows with the same columns, those of the longest in its order."""
    longest = max(rows, key=len)
    return [{name: row.get(name, "") for name in longest} for row in rows]


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def main() -> None:
    """Parses the command line and writes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments, options = parse_options(parser)
    root = arguments.root
    found = list(lines(root, arguments.tables, arguments.seeds))
    trained = shlex.join([*(QUICK if arguments.quick else ()), *options])
    quick = f"All trainings with {trained}." if trained else ""
    data = paper_data.surveys(root, [line.method for line in found])
    first = {"title": paper_data.TITLE, "tables": paper_data.tables(data)}
    sections = [{**first, "ranks": "", "note": paper_data.NOTE}]
    pictures = paper_data.pictures(data)
    for number, published in PUBLISHED.items():
        own = [line for line in found if line.method.table == number]
        if not own:
            continue
        section = {"title": published.title, "tables": [table(number, own), costs(own)]}
        sections.append({**section, "ranks": ranks(own), "note": note(own)})
        pictures |= figures(number, own, root)
    if changed := [line for line in found if line.method.table == "ablation"]:
        tables = [ablation(changed)]
        section = {"title": "Ablation on COVID-CT", "tables": tables}
        sections.append({**section, "ranks": "", "note": note(changed)})
    markdown = ["# The paper's tables", *([quick] if quick else [])]
    for section in sections:
        markdown += [f"## {section['title']}", *([section["note"]] if section["note"] else [])]
        markdown += [
            tabulate(rows, "keys", "github", disable_numparse=True)
            for rows in section["tables"]
            if rows
        ]
        markdown += [section["ranks"]] if section["ranks"] else []
    (root / "tables.md").write_text("\n\n".join(markdown) + "\n")
    page = render_page("paper.html.jinja", pictures, sections=sections, quick=quick)
    (root / "tables.html").write_text(page)
    print(f"{root / 'tables.html'} and {root / 'tables.md'}")


if __name__ == "__main__":
    main()
