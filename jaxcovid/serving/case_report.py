"""What leaves the page: a table of all slices, a picture of one, a PDF of a case."""

import csv
import datetime
import io
import secrets
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcovid.inference.mask_writer import figures
from jaxcovid.metrics.thresholds import main_name
from jaxcovid.runtime.files import write_atomically
from jaxcovid.serving import pictures
from jaxcovid.serving.cases import Case, Entry, Finding, find
from jaxcovid.serving.served_networks import Answer, Networks, Served, read_masks

RESEARCH_ONLY = "RESEARCH ONLY: not a medical device, not for diagnosis or treatment"
_INVOLVED = {
    "involved": "share of the lungs involved",
    "grade": "grade",
    "bilateral": "in both lungs",
    "peripheral": "in the outer third",
    "dorsal": "in the back half",
    "lower": "in the lower half",
}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which a spreadsheet begins one
_A4 = (8.27, 11.69)  # inches
_METADATA = {"Title": "jaxcovid, research only"}


def table(cases: Sequence[Case], served: Sequence[Served]) -> str:
    """A CSV: of each case a row for each slice and network, then one for each network together."""
    rows = [row for case in cases for row in _rows(case, served)]
    text = io.StringIO()
    writer = csv.DictWriter(text, _row("", "", "", "", None))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _rows(case: Case, served: Sequence[Served]) -> list[dict[str, str]]:
    rows = []
    for entry in case.ordered():
        number = "" if entry.slice.number is None else str(entry.slice.number)
        for index, each in enumerate(served):
            row = _row(case.title, entry.name, number, each.name, each)
            if entry.answers:
                row |= _answer_columns(each, entry.answers[index])
            rows.append({**row, "error": entry.slice.error})
    for index, each in enumerate(served):
        finding = find(case, index, each)
        rows.append(
            {
                **_row(case.title, "", "all", each.name, each),
                **_probability_columns(finding.probabilities),
                "decision": finding.decision,
                "involved": finding.involvement.get("involved", ""),
                "grade": finding.involvement.get("grade", ""),
                "warning": "; ".join(finding.warnings),
            }
        )
    return rows


def _row(case: str, file: str, number: str, network: str, served: Served | None) -> dict[str, str]:
    """A row without answers."""
    names = ("probability", "probabilities", "decision", "involved", "grade", "warning", "error")
    return {
        "case": _harmless(case),
        "file": _harmless(file),
        "slice": number,
        "network": network,
        "step": str(served.step) if served else "",
        **dict.fromkeys(names, ""),
    }


def _harmless(name: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{name}" if name.startswith(_FORMULA) else name


def _probability_columns(probabilities: dict[str, float]) -> dict[str, str]:
    texts = {name: f"{value:.6f}" for name, value in probabilities.items()}
    return {
        "probability": next(iter(texts.values()), ""),
        "probabilities": "; ".join(f"{name} {text}" for name, text in texts.items()),
    }


def _answer_columns(served: Served, answer: Answer) -> dict[str, str]:
    outputs, task = served.network.outputs, served.network.task
    columns = _probability_columns(dict(zip(outputs, answer.probabilities, strict=True)))
    if task.screens:
        threshold = served.network.thresholds[main_name(served.network.thresholds)]
        called = "" if answer.probabilities[0] >= threshold else "not "
        columns["decision"] = called + outputs[0]
    if answer.areas:
        shares = figures(answer.areas)
        columns |= {"involved": shares["involved"], "grade": shares["grade"]}
    return {**columns, "warning": answer.warning}


def picture(entry: Entry, networks: Networks, network: int) -> np.ndarray:
    """A slice with the heatmap and the contours of a network, uint8 [h, w, 3], RGB.

    Called in the thread of the networks.
    """
    view = networks.view(network, entry.slice)
    gray, which = view.read(), networks.served[network].network
    heatmap = which.heatmaps([gray])[0] if which.has_gradcam else None
    file = entry.answers[network].masks if entry.answers else None
    masks = read_masks(file, view.shape) if file else None
    return pictures.whole_picture(gray, heatmap, masks)


def pdf(case: Case, networks: Networks, prevalence: float | None) -> bytes:
    """A report of a case, a page for each network, marked for research only.

    Called in the thread of the networks.

    Args:
      case: of a session.
      networks: that screened it.
      prevalence: see `cases.view`.
    """
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    content = io.BytesIO()
    with warnings.catch_warnings(), PdfPages(content, metadata=_METADATA) as pages:
        warnings.simplefilter("ignore")  # letters of a name that the font lacks go into no log
        for index, served in enumerate(networks.served):
            figure = Figure(figsize=_A4)
            _draw_page(
                figure, case, networks, index, find(case, index, served, prevalence=prevalence)
            )
            pages.savefig(figure)
    return content.getvalue()


def keep(cases: Sequence[Case], networks: Networks, folder: Path) -> None:
    """Writes `TIME_KEY.csv` of all cases and `TIME_KEY_NUMBER.pdf` of each, for who asked for it.

    Called in the thread of the networks.

    Raises:
      OSError: the folder cannot be written.
    """
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = f"{now}_{secrets.token_hex(4)}"
    write_atomically(folder / f"{name}.csv", table(cases, networks.served).encode())
    for case in cases:
        if case.answered():
            write_atomically(folder / f"{name}_{case.number}.pdf", pdf(case, networks, None))


def _draw_page(figure: Any, case: Case, networks: Networks, index: int, finding: Finding) -> None:
    served = networks.served[index]
    figure.text(0.08, 0.955, RESEARCH_ONLY, weight="bold", color="#b00020", size=11, wrap=True)
    figure.text(0.08, 0.92, _plain(case.title), size=14, weight="bold")
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    figure.text(0.08, 0.90, f"{case.kind} of {len(case.entries)} slices; {now}", size=9)
    grid = {"left": 0.08, "right": 0.92, "top": 0.88, "bottom": 0.5, "wspace": 0.05}
    left, right = figure.subplots(1, 2, gridspec_kw=grid)
    shown = next((e for e in case.entries if e.number == finding.most_suspicious), None)
    for axes, title in ((left, "slice"), (right, "with what the network shows")):
        axes.set_axis_off()
        if shown:
            axes.set_title(title, size=9)
    if shown:
        gray = networks.view(index, shown.slice).read()
        left.imshow(gray, cmap="gray", vmin=0, vmax=255)
        right.imshow(picture(shown, networks, index))
    figure.text(0.08, 0.47, "\n".join(_lines(case, served, finding)), size=9, va="top", wrap=True)
    figure.text(0.08, 0.04, RESEARCH_ONLY, weight="bold", color="#b00020", size=9)


def _lines(case: Case, served: Served, finding: Finding) -> list[str]:
    """What a page says, in lines of text."""
    lines = [f"Network {served.name}, trained on {served.trained_on}, checkpoint {served.step}"]
    lines += [f"  {score}" for score in served.scores] + [""]
    what = "mean over slices" if len(case.entries) > 1 else "calibrated probability"
    if not served.classifies:
        what = "share of the lungs involved"
    lines += [f"{name}: {value:.3f} ({what})" for name, value in finding.probabilities.items()]
    if finding.decision:
        lines.append(f"Decision: {finding.decision} (threshold {finding.threshold:.3f})")
    if finding.meaning:
        lines.append(finding.meaning.text)
    if finding.involvement:
        lines.append("")
        lines += [
            f"{title}: {finding.involvement[key]}"
            for key, title in _INVOLVED.items()
            if finding.involvement[key]
        ]
    failed = sum(bool(entry.slice.error) for entry in case.entries)
    lines += [f"Warning, {count} slices: {text}" for text, count in finding.warnings.items()]
    lines += [f"{failed} slices could not be used"] if failed else []
    return [_plain(line) for line in lines]


def _plain(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")
