"""The result of `benchmark growth` as a figure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draws what `time_growth` returned: time and memory of a step over batch and size."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    figure = Figure(figsize=(9, 6), layout="constrained")
    for column, (key, fixed, title) in enumerate(
        (("batch", ("size", 256), "256x256"), ("size", ("batch", 8), "batch 8"))
    ):
        rows = sorted((r for r in result["rows"] if r[fixed[0]] == fixed[1]), key=lambda r: r[key])
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
            for drawn_quantity, chosen, name, y in lines:
                if drawn_quantity == quantity and chosen:
                    values = [y(row) for row in chosen]
                    axes.plot([row[key] for row in chosen], values, "o-", label=name)
            axes.legend(framealpha=0.5)
    figure.savefig(path, dpi=100)
