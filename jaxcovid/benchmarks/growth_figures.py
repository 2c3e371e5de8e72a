"""What `benchmark growth` found, as lines of a table and as a figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def line(row: Mapping[str, Any]) -> str:
    """A row of `growth` as a line of a Markdown table."""
    peer = row.get("peer", {})
    cells = [f"{row['batch']}", f"{row['size']}"]
    for side, key, form in (
        (row, "s_per_step", ".2f"),
        (row, "images_per_s", ".2f"),
        (row, "compiled_gib", ".2f"),
        (row, "peak_gib", ".2f"),
        (peer, "s_per_step", ".2f"),
        (peer, "peak_gib", ".2f"),
    ):
        cells.append(format(side[key], form) if key in side else "")
    return f"| {' | '.join(cells)} |"


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draws what `growth` returned: time and memory of a step over the batch and over the size."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    figure = Figure(figsize=(9, 6), layout="constrained")
    for column, (key, fixed, title) in enumerate(
        (("batch", ("size", 256), "256x256"), ("size", ("batch", 8), "batch 8"))
    ):
        rows = sorted((r for r in found["rows"] if r[fixed[0]] == fixed[1]), key=lambda r: r[key])
        timed = [row for row in rows if "s_per_step" in row]
        against = [row for row in timed if "peer" in row]
        peer = against[0]["peer"]["framework"] if against else ""
        x = [row[key] for row in rows]
        label = {"batch": "images of a batch", "size": "side of an image, px"}[key]
        lines = (
            ("step, s", timed, "jaxcovid", lambda row: row["s_per_step"]),
            ("step, s", against, peer, lambda row: row["peer"]["s_per_step"]),
            ("memory, GiB", rows, "jaxcovid, compiled program", lambda row: row["compiled_gib"]),
            ("memory, GiB", timed, "jaxcovid, process", lambda row: row["peak_gib"]),
            ("memory, GiB", against, f"{peer}, process", lambda row: row["peer"]["peak_gib"]),
        )
        for i, quantity in enumerate(("step, s", "memory, GiB")):
            axes = figure.add_subplot(2, 2, 1 + column + 2 * i)
            axes.set(xscale="log", yscale="log", xlabel=label, ylabel=quantity, title=title)
            axes.set_xticks(x, [str(value) for value in x])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
            axes.grid(alpha=0.3)
            for of, chosen, name, y in lines:
                if of == quantity and chosen:
                    values = [y(row) for row in chosen]
                    axes.plot([row[key] for row in chosen], values, "o-", label=name)
            axes.legend(framealpha=0.5)
    figure.savefig(path, dpi=100)
