"""Results of a benchmark as tables of text."""

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

_ROWS = (  # title, key, factor, unit
    ("images/s", "images_per_s", 1, ""),
    ("step", "s_per_step", 1e3, "ms"),
    ("peak memory", "peak_gib", 1, "GiB"),
    ("compiled program's memory", "compiled_gib", 1, "GiB"),
    ("trace and lower", "trace_s", 1, "s"),
    ("compile", "compile_s", 1, "s"),
    ("arithmetic", "flops_per_s", 1e-9, "GFLOP/s"),
    ("- share of a matrix product's rate", "share_of_matmul_rate", 100, "%"),
    ("memory traffic, without caches", "bytes_accessed_per_s", 1e-9, "GB/s"),
    ("- share of a copy's rate", "share_of_copy_rate", 100, "%"),
)


_COMPILED_ROWS = (  # title, key, factor, unit
    ("device memory", "device_bytes", 2**-30, "GiB"),
    ("- temporaries", "temporary_bytes", 2**-30, "GiB"),
    ("memory traffic of a step", "bytes_moved", 1e-9, "GB"),
    ("kernels of a step", "kernels", 1, ""),
    ("all-reduces", "all_reduces", 1, ""),
    ("collectives", "collectives", 1, ""),
    ("- bytes of their results", "collective_bytes", 1e-6, "MB"),
    ("- beside other kernels", "overlapped", 1, ""),
    ("- their bytes", "overlapped_bytes", 1e-6, "MB"),
    ("- across slices", "across_slices", 1, ""),
    ("- their bytes", "across_slices_bytes", 1e-6, "MB"),
    ("arithmetic of a step", "flops", 1e-12, "TFLOP"),
    ("step, at least", "bound_s", 1e3, "ms"),
    ("images/s, at most", "images_per_s_bound", 1, ""),
    ("trace and lower", "trace_s", 1, "s"),
    ("compile", "compile_s", 1, "s"),
)


def compile_table(result: Mapping[str, Any]) -> str:
    """A result of `compile_network`: costs of a device, kernels by kind, speed by chips."""
    contestants = [result, *([result["peer"]] if "peer" in result else [])]
    names = [facts["framework"] for facts in contestants]
    rows = [
        (title, *(f"{_rounded(facts[key] * factor)} {unit}".strip() for facts in contestants))
        for title, key, factor, unit in _COMPILED_ROWS
    ]
    kinds = dict.fromkeys(kind for facts in contestants for kind in facts["by_kind"])
    for kind in kinds:
        cells = []
        for facts in contestants:
            of_kind = facts["by_kind"].get(kind, {"kernels": 0, "bytes": 0})
            cells.append(f"{of_kind['kernels']:,}, {of_kind['bytes'] / 1e9:.2f} GB")
        rows.append((kind, *cells))
    heading = "train, batch {batch}, {size}x{size}, {dtype}, on {devices} x {device}".format(
        **result
    )
    alignment = ("left", *["right"] * len(names))
    parts = [
        f"{heading}, calculated for each device",
        tabulate(rows, ("", *names), tablefmt="simple", colalign=alignment, disable_numparse=True),
    ]
    if not result["fits"]:
        parts.append("It does not fit into the memory of the device.")
    if result["scaling"]:
        scaling = [
            (
                row["devices"],
                f"{row['images_per_s']:,.0f}",
                f"{row['exchange_s'] * 1e3:.2f} ms",
                f"{row['exposed_s'] * 1e3:.2f} ms",
                f"{row['efficiency']:.0%}",
            )
            for row in result["scaling"]
        ]
        headers = ("chips", "images/s, at most", "exchange", "not hidden", "efficiency")
        parts.append(tabulate(scaling, headers, tablefmt="simple", stralign="right"))
    return "\n".join(parts)


def _rounded(value: float) -> str:
    """Four digits, all of those before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def speed_table(result: Mapping[str, Any]) -> str:
    """A result of `time_network` or `time_input`: a heading, a table, the ratios."""
    names = ("decoding", "cached", "opencv", "peer")
    others = {name: result[name] for name in names if name in result}
    contestants = {"jaxcovid": result, **others}
    heading = "{mode}, batch {batch}, {size}x{size}".format(**result)
    if "dtype" in result:
        heading += ", {dtype}, on {devices} x {device}".format(**result)
    else:
        heading += ", {images} images, {workers} workers".format(**result)
    names = [facts.get("framework", name) for name, facts in contestants.items()]
    rows = [
        (title, *(_cell(facts.get(key), factor, unit) for facts in contestants.values()))
        for title, key, factor, unit in _ROWS
        if any(facts.get(key) is not None for facts in contestants.values())
    ]
    alignment = ("left", *["right"] * len(names))
    table = tabulate(
        rows, ("", *names), tablefmt="simple", colalign=alignment, disable_numparse=True
    )
    ratios = [
        "{median:.2f} times the images/s of {name} ({low:.2f} to {high:.2f})".format(
            name=facts.get("framework", name), **facts["ratio"]
        )
        for name, facts in others.items()
    ]
    return "\n".join([heading, table, *ratios])


def _cell(value: float | None, factor: float, unit: str) -> str:
    return "" if value is None else f"{value * factor:.3g} {unit}".strip()


def start_table(result: Mapping[str, Any]) -> str:
    """A result of `time_start`: seconds by name."""
    rows = [(name, seconds) for name, seconds in result.items() if name.endswith("_s")]
    return tabulate(rows, ("", "s"), tablefmt="simple", floatfmt=".1f")


def growth_line(row: Mapping[str, Any]) -> str:
    """A row of `time_growth` as a line of a Markdown table, printed as soon as it is measured."""
    peer = row.get("peer", {})
    cells = [f"{row['batch']}", f"{row['size']}"]
    for facts, key in (
        (row, "s_per_step"),
        (row, "images_per_s"),
        (row, "compiled_gib"),
        (row, "peak_gib"),
        (peer, "s_per_step"),
        (peer, "peak_gib"),
    ):
        cells.append(f"{facts[key]:.2f}" if key in facts else "")
    return f"| {' | '.join(cells)} |"
