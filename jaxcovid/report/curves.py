"""Curves of a report: ROC, precision over recall, and calibration."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxcovid.metrics.calibration import ReliabilityBin
from jaxcovid.metrics.interval import Score
from jaxcovid.report.png import DARK, as_png

# Okabe & Ito's colours, distinct with every common colour vision deficiency.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "D", "^", "v", "P")
_PALE = "#D9D9D9"


def roc_figure(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    aucs: Mapping[str, Score],
    thresholds: Mapping[str, float],
    title: str,
) -> bytes:
    """Draws ROC curves; one with a class missing appears in the legend alone.

    Args:
      curves: name -> (positive bool [n], score float [n]).
      aucs: name -> AUC, for the legend.
      thresholds: operating points by name, marked on the first curve.
      title: above the axes.

    Returns:
      PNG.
    """
    from sklearn.metrics import roc_curve

    figure, axes = _square()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=(0, (4, 3)))
    for index, (name, (positive, score)) in enumerate(curves.items()):
        x, y = [], []
        label = f"{name}: undefined, one class is absent"
        if positive.any() and not positive.all():
            x, y, _ = roc_curve(positive, score)
            label = f"{name}{_legend_auc(aucs.get(name))}"
        axes.plot(
            x,
            y,
            color=COLOURS[index % len(COLOURS)],
            linestyle=("-", (0, (5, 1.5)), (0, (1, 1)))[index % 3],
            linewidth=2,
            label=label,
            solid_joinstyle="round",
        )
    positive, score = next(iter(curves.values()))
    if positive.any() and not positive.all():
        _mark_points(axes, positive, score, thresholds)
    return _finish(figure, axes, "1 - specificity", "Sensitivity", title)


def _mark_points(
    axes: Axes, positive: np.ndarray, score: np.ndarray, thresholds: Mapping[str, float]
) -> None:
    """Marks operating points on the ROC curve of labels bool [n] and scores float [n]."""
    for (name, threshold), marker in zip(
        thresholds.items(), itertools.cycle(MARKERS), strict=False
    ):
        called = score.astype(np.float64) >= threshold
        axes.plot(
            called[~positive].mean(),
            called[positive].mean(),
            marker=marker,
            markersize=8,
            linestyle="none",
            color="white",
            markeredgecolor=DARK,
            markeredgewidth=1.4,
            zorder=3,
            label=point_name(name) + ("" if name == "0.5" else f" (≥ {threshold:.3f})"),
        )


def precision_recall_figure(
    positive: np.ndarray, score: np.ndarray, *, average_precision: float, title: str
) -> bytes:
    """Draws the precision-recall curve over the share of positives, which random scores reach.

    Args:
      positive: bool [n].
      score: float [n].
      average_precision: for the legend.
      title: above the axes.

    Returns:
      PNG.
    """
    from sklearn.metrics import precision_recall_curve

    figure, axes = _square(height=5.6)
    share = positive.mean()
    axes.axhline(share, color="#999999", linewidth=1, linestyle=(0, (4, 3)), label="random")
    if positive.any():
        precision, recall, _ = precision_recall_curve(positive, score)
        axes.step(
            recall,
            precision,
            where="post",
            color=COLOURS[0],
            linewidth=2,
            label=f"average precision {average_precision:.3f}, share of positives {share:.3f}",
        )
    return _finish(figure, axes, "Sensitivity (recall)", "Precision", title)


def reliability_figure(bins: Sequence[ReliabilityBin], *, title: str) -> bytes:
    """Draws the share of positives over the mean probability of each bin.

    Args:
      bins: see `calibration.reliability`.
      title: above the axes.

    Returns:
      PNG.
    """
    figure, axes = _square(height=5.6)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=(0, (4, 3)), label="ideal")
    x, y, n = (np.array([getattr(part, k) for part in bins]) for k in ("probability", "share", "n"))
    axes.errorbar(
        x,
        y,
        yerr=np.sqrt(y * (1 - y) / n),
        marker="o",
        color=COLOURS[0],
        linewidth=1.5,
        capsize=2,
        label=f"{len(bins)} bins of {n.min()} to {n.max()} images, with standard error",
    )
    return _finish(figure, axes, "Mean probability", "Share of positives", title)


def _square(height: float = 6.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.6, height), layout="constrained")
    return figure, figure.add_subplot()


def _finish(figure: Figure, axes: Axes, x_label: str, y_label: str, title: str) -> bytes:
    """Labels axes from 0 to 1 on both sides; PNG."""
    axes.grid(color=_PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")
    axes.tick_params(colors=DARK, labelsize=9)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel=x_label, ylabel=y_label)
    axes.set_title(title, loc="left", fontsize=11, color=DARK)
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=9)
    return as_png(figure, dpi=160)


def _legend_auc(score: Score | None) -> str:
    if score is None:
        return ""
    if np.isnan(score.low):
        return f": AUC {score.value:.3f}"
    return f": AUC {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def point_name(name: str) -> str:
    """An operating point as people read it: 'sensitivity_90' -> 'Sensitivity 90 %'."""
    if name == "youden":
        return "Youden's J"
    if name == "involved":
        return "1 % of the lungs involved"
    kind, _, percent = name.partition("_")
    return f"{kind.capitalize()} {percent} %" if percent.isdigit() else f"Threshold {name}"
