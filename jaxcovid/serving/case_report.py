"""What leaves the page: a table of all slices, a picture of one, a PDF of a case."""

import csv
import datetime
import io
import secrets
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxcovid.inference.mask_writer import figures
from jaxcovid.runtime.spreadsheets import no_formula
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
_COLUMNS = ("case", "title", "file", "slice", "network", "step", "probability", "probabilities")
_COLUMNS += ("decision", "involved", "grade", "warning", "error")
_A4 = (8.27, 11.69)  # inches
_METADATA = {"Title": "jaxcovid, research only"}


def table(cases: Sequence[Case], served: Sequence[Served]) -> str:
    """A CSV: of each case a row for each slice and network, then one for each network together.

    Slices are counted from 1, from the feet to the head where that is known, as on the page.
    """
    rows = [row for case in cases for row in _rows(case, served)]
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _rows(case: Case, served: Sequence[Served]) -> list[dict[str, str]]:
    rows = []
    for place, entry in enumerate(case.ordered(), start=1):
        for index, each in enumerate(served):
            row = _row(case, entry.name, str(place), each)
            if entry.answers:
                row |= _answer_columns(each, entry.answers[index])
            rows.append({**row, "error": entry.slice.error})
    finished = sum(entry.finished for entry in case.entries)
    unfinished = finished < len(case.entries)
    for index, each in enumerate(served):
        finding = find(case, index, each)
        rows.append(
            {
                **_row(case, "", "all", each),
                **_probability_columns(each, list(finding.probabilities.values())),
                "decision": finding.decision,
                "involved": finding.involvement.get("involved", ""),
                "grade": finding.involvement.get("grade", ""),
                "warning": "; ".join(finding.warnings),
                "error": f"so far, {finished} of {len(case.entries)} slices" if unfinished else "",
            }
        )
    return rows


def _row(case: Case, file: str, place: str, served: Served) -> dict[str, str]:
    """A row without answers."""
    return {
        **dict.fromkeys(_COLUMNS, ""),
        "case": str(case.number),
        "title": no_formula(case.title),
        "file": no_formula(file),
        "slice": place,
        "network": served.name,
        "step": str(served.step),
    }


def _probability_columns(served: Served, probabilities: Sequence[float]) -> dict[str, str]:
    """Those of the probabilities; `probability` is of the positive class, findings have none."""
    texts = [f"{value:.6f}" for value in probabilities]
    pairs = zip(served.network.outputs, texts, strict=False)
    return {
        "probability": texts[0] if texts and served.network.task.screens else "",
        "probabilities": "; ".join(f"{name} {text}" for name, text in pairs),
    }


def _answer_columns(served: Served, answer: Answer) -> dict[str, str]:
    columns = _probability_columns(served, answer.probabilities)
    columns["decision"] = served.decide(answer.probabilities)
    if answer.areas:
        shares = figures(answer.areas)
        columns |= {"involved": shares["involved"], "grade": shares["grade"]}
    return {**columns, "warning": answer.warning}


@dataclass(frozen=True)
class Layers:
    """What is laid over a slice.

    Attributes:
      output: whose heatmap.
      heatmap: how strong, 0 to 1.
      contours: outlines of lungs and lesion.
    """

    output: int = 0
    heatmap: float = 1.0
    contours: bool = True


def picture(
    entry: Entry,
    networks: Networks,
    network: int,
    layers: Layers,
    gray: np.ndarray | None = None,
) -> np.ndarray:
    """A slice with the heatmap and the contours of a network, uint8 [h, w, 3], RGB.

    Called in the thread of the networks.

    Args:
      entry: of a case, without an error.
      networks: that screen.
      network: index of the one whose layers are shown.
      layers: see `Layers`; what the network has not is left out.
      gray: uint8 [h, w], as it is shown; None is as the network sees it.
    """
    view = networks.view(network, entry.slice)
    heatmap = None
    if layers.heatmap and layers.output < len(networks.served[network].network.explained):
        heatmap = layers.heatmap * networks.heatmap(network, entry.slice, layers.output)
    file = entry.answers[network].masks if entry.answers and layers.contours else None
    masks = read_masks(file, view.shape) if file else None
    return pictures.whole_picture(view.read() if gray is None else gray, heatmap, masks)


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


def new_name() -> str:
    """The name under which the results of a page are kept: the time, and what makes it unique."""
    return f"{datetime.datetime.now():%Y%m%d-%H%M%S}_{secrets.token_hex(4)}"


def _draw_page(figure: Any, case: Case, networks: Networks, index: int, finding: Finding) -> None:
    served = networks.served[index]
    figure.text(0.08, 0.955, RESEARCH_ONLY, weight="bold", color="#b00020", size=11, wrap=True)
    figure.text(0.08, 0.92, _plain(case.title), size=14, weight="bold")
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    figure.text(0.08, 0.90, f"{case.kind} of {len(case.entries)} slices; {now}", size=9)
    _draw_slice(figure, case, networks, index, finding)
    figure.text(0.08, 0.47, "\n".join(_lines(case, served, finding)), size=9, va="top", wrap=True)
    figure.text(0.08, 0.04, RESEARCH_ONLY, weight="bold", color="#b00020", size=9)


def _draw_slice(figure: Any, case: Case, networks: Networks, index: int, finding: Finding) -> None:
    """Draws the most suspicious slice, alone and with what the network shows of it."""
    ordered = case.ordered()
    place = next((i for i, e in enumerate(ordered) if e.number == finding.most_suspicious), None)
    if place is None:
        return
    shown, which = ordered[place], networks.served[index].network
    probabilities = shown.answers[index].probabilities
    highest = which.task.leading(probabilities)
    title = f"slice {place + 1} of {len(ordered)}: {probabilities[highest]:.3f}"
    pictures_of = [(title, networks.view(index, shown.slice).read())]
    if which.explained or which.segments:
        name = f"heatmap of {which.outputs[highest]}" if highest < len(which.explained) else ""
        title = " and ".join(filter(None, [name, "outlines" if which.segments else ""]))
        pictures_of.append((title, picture(shown, networks, index, Layers(output=highest))))
    grid = {"left": 0.08, "right": 0.92, "top": 0.88, "bottom": 0.5, "wspace": 0.05}
    axes = figure.subplots(1, len(pictures_of), squeeze=False, gridspec_kw=grid)[0]
    for each, (title, drawn) in zip(axes, pictures_of, strict=True):
        each.set_axis_off()
        each.set_title(_plain(title), size=9)
        each.imshow(drawn, cmap="gray", vmin=0, vmax=255)


def _lines(case: Case, served: Served, finding: Finding) -> list[str]:
    """What a page says, in lines of text."""
    lines = [f"Network {served.name}, trained on {served.trained_on}, checkpoint {served.step}"]
    lines += [f"  {score}" for score in served.scores] + [""]
    what = "mean over slices" if len(case.entries) > 1 else "calibrated probability"
    if not served.network.classifies:
        what = "expected share of the lungs involved, which the decision uses"
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
    finished = sum(entry.finished for entry in case.entries)
    if finished < len(case.entries):
        lines.append(f"NOT FINISHED: {finished} of {len(case.entries)} slices so far")
    failed = sum(bool(entry.slice.error) for entry in case.entries)
    lines += [f"Warning, {count} slices: {text}" for text, count in finding.warnings.items()]
    lines += [f"{failed} slices could not be used"] if failed else []
    return [_plain(line) for line in lines]


def _plain(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")
