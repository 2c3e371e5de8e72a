"""Pictures of the report: ROC curves, and heatmaps over the images they explain."""

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from jaxcovid.runtime import files

if TYPE_CHECKING:  # imported in the functions: `overlay` is all that prediction needs
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's colours, told apart with every common colour vision deficiency.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "D", "^", "v", "P")
_DARK, _PALE = "#222222", "#D9D9D9"
_OUTLINE = (0x56, 0xB4, 0xE9)


def overlay(image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Lays a heatmap over a gray image; where the map is 0 the image stays as it is.

    Args:
      image: uint8 [h, w].
      heatmap: float [any, any] in [0, 1]; scaled to the image (bicubic: a bilinear 8x8 map shows
        stars that are not in it).

    Returns:
      uint8 [h, w, 3], RGB.

    Raises:
      ValueError: another shape or dtype, or a heatmap outside [0, 1].
    """
    heatmap = _upsampled(heatmap, image)
    bgr = cv2.applyColorMap(np.rint(255 * heatmap).astype(np.uint8), cv2.COLORMAP_INFERNO)
    share = 0.65 * heatmap[..., None]
    blended = (1 - share) * image[..., None] + share * cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return np.rint(blended).astype(np.uint8)


def _upsampled(heatmap: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The heatmap as float32 [h, w] of the image uint8 [h, w], both checked."""
    if image.ndim != 2 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"image is {image.dtype} {image.shape}; it must be uint8 [h, w]")
    if heatmap.ndim != 2 or not heatmap.size:
        raise ValueError(f"heatmap has shape {heatmap.shape}; it must be [h, w]")
    if not (heatmap.min() >= 0 and heatmap.max() <= 1):  # also true of NaN
        raise ValueError(f"heatmap lies in [{heatmap.min()}, {heatmap.max()}], not in [0, 1]")
    height, width = image.shape
    large = cv2.resize(heatmap.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return large.clip(0, 1)


def roc_figure(
    path: Path,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    intervals: Mapping[str, Mapping[str, float]] | None = None,
    thresholds: Mapping[str, float] | None = None,
    title: str = "",
) -> None:
    """Draws ROC curves into a PNG; one with a class missing stands in the legend alone.

    Args:
      path: of the PNG.
      curves: name -> (positive bool [n], score float [n]).
      intervals: name -> {'value', 'low', 'high'} of the AUC, for the legend.
      thresholds: operating points, marked on the first curve.
      title: above the axes.

    Raises:
      OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure
    from sklearn.metrics import roc_curve

    figure = Figure(figsize=(5.6, 6.0), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=(0, (4, 3)))
    for index, (name, (positive, score)) in enumerate(curves.items()):
        x, y = [], []
        label = f"{name}: undefined, one class is absent"
        if positive.any() and not positive.all():
            x, y, _ = roc_curve(positive, score)
            label = f"{name}{_legend_auc((intervals or {}).get(name))}"
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
        for (name, threshold), marker in zip(
            (thresholds or {}).items(), itertools.cycle(MARKERS), strict=False
        ):
            called = score.astype(np.float64) >= threshold
            axes.plot(
                called[~positive].mean(),
                called[positive].mean(),
                marker=marker,
                markersize=8,
                linestyle="none",
                color="white",
                markeredgecolor=_DARK,
                markeredgewidth=1.4,
                zorder=3,
                label=point_name(name) + ("" if name == "0.5" else f" (≥ {threshold:.3f})"),
            )
    _finish_square(path, figure, axes, "1 - specificity", "Sensitivity", title)


def precision_recall_figure(
    path: Path, positive: np.ndarray, score: np.ndarray, *, average_precision: float, title: str
) -> None:
    """Draws the precision-recall curve into a PNG, over the share of positives.

    Args:
      path: of the PNG.
      positive: bool [n].
      score: float [n].
      average_precision: for the legend.
      title: above the axes.

    Raises:
      OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure
    from sklearn.metrics import precision_recall_curve

    figure = Figure(figsize=(5.6, 5.6), layout="constrained")
    axes = figure.add_subplot()
    share = positive.mean()
    axes.axhline(share, color="#999999", linewidth=1, linestyle=(0, (4, 3)), label="a coin")
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
    _finish_square(path, figure, axes, "Sensitivity (recall)", "Precision", title)


def reliability_figure(path: Path, bins: Sequence[Mapping[str, float]], *, title: str) -> None:
    """Draws the share of positives over the mean probability of each bin into a PNG.

    Args:
      path: of the PNG.
      bins: see `calibration.reliability`.
      title: above the axes.

    Raises:
      OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 5.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=(0, (4, 3)), label="ideal")
    x, y, n = (np.array([part[key] for part in bins]) for key in ("probability", "share", "n"))
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
    _finish_square(path, figure, axes, "Mean probability", "Share of positives", title)


def _finish_square(
    path: Path, figure: "Figure", axes: "Axes", x_label: str, y_label: str, title: str
) -> None:
    """Labels axes from 0 to 1 on both sides, and saves."""
    _style(axes)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel=x_label, ylabel=y_label)
    axes.set_title(title, loc="left", fontsize=11, color=_DARK)
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=9)
    _save(path, figure, dpi=160)


def heatmap_gallery(
    path: Path,
    images: Sequence[np.ndarray],
    heatmaps: Sequence[np.ndarray],
    captions: Sequence[str],
    masks: Sequence[np.ndarray | None] | None = None,
) -> None:
    """Draws each image beside itself under its heatmap, two such pairs a row, into a PNG.

    Args:
      path: of the PNG.
      images: uint8 [h, w], any sizes.
      heatmaps: float [any, any] in [0, 1].
      captions: one for each image.
      masks: bool [h, w] of each image, or None: outlined (the lungs).

    Raises:
      ValueError: no image, lists of different lengths, or what `overlay` refuses.
      OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    masks = [None] * len(images) if masks is None else masks
    lengths = {len(images), len(heatmaps), len(captions), len(masks)}
    if len(lengths) > 1 or not images:
        raise ValueError(
            f"{len(images)} images, {len(heatmaps)} heatmaps, {len(captions)} captions and "
            f"{len(masks)} masks; give at least one of each, and as many"
        )
    pairs = [
        np.hstack(
            [_tile(picture, mask) for picture in (np.dstack([image] * 3), overlay(image, heatmap))]
        )
        for image, heatmap, mask in zip(images, heatmaps, masks, strict=True)
    ]
    columns = min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(5 * columns, 2.9 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for cell in axes.flat:
        cell.set_axis_off()
    for cell, pair, caption in zip(axes.flat[: len(pairs)], pairs, captions, strict=True):
        cell.imshow(pair)
        cell.set_title(_shortened(caption), loc="left", fontsize=9, color=_DARK)
    _colour_bar(figure, axes)
    _save(path, figure, dpi=120)


def _tile(picture: np.ndarray, mask: np.ndarray | None, side: int = 288) -> np.ndarray:
    """The picture uint8 [h, w, 3] on a white square, uint8 [side, side, 3], the mask outlined."""
    height, width = picture.shape[:2]
    inner = side - 8
    size = tuple(max(1, round(inner * x / max(height, width))) for x in (width, height))
    shrinks = max(height, width) > inner
    scaled = cv2.resize(
        picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    if mask is not None:
        if mask.shape != (height, width):
            raise ValueError(f"mask is {mask.shape} but its image {(height, width)}")
        inside = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(scaled, outlines, -1, _OUTLINE, 1, lineType=cv2.LINE_AA)
    tile = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - inner) // 2, (side - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = scaled
    return tile


def _colour_bar(figure: "Figure", axes: np.ndarray) -> None:
    """The heatmap's scale under the grid."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap

    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)
    colours = ListedColormap(ramp[:, 0, ::-1] / 255)
    bar = figure.colorbar(
        ScalarMappable(cmap=colours),
        ax=axes,
        location="bottom",
        shrink=0.5,
        aspect=40,
        pad=0.03,
        ticks=[0, 1],
    )
    bar.ax.set_xticklabels(["no evidence", "most evidence"], fontsize=8, color=_DARK)
    bar.outline.set_visible(False)


def _shortened(caption: str) -> str:
    """Long lines lose their middle, where ids differ least."""
    lines = caption.splitlines()
    return "\n".join(x if len(x) <= 64 else f"{x[:31]}…{x[-32:]}" for x in lines)


def _legend_auc(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return ""
    if np.isnan(interval["low"]):
        return f": AUC {interval['value']:.3f}"
    return f": AUC {interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def point_name(name: str) -> str:
    """An operating point as people read it: 'sensitivity_90' -> 'Sensitivity 90 %'."""
    if name == "youden":
        return "Youden's J"
    kind, _, percent = name.partition("_")
    return f"{kind.capitalize()} {percent} %" if percent.isdigit() else f"Threshold {name}"


def _style(axes: "Axes") -> None:
    axes.grid(color=_PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")
    axes.tick_params(colors=_DARK, labelsize=9)


def _save(path: Path, figure: "Figure", dpi: int) -> None:
    content = io.BytesIO()
    # No software version in the file: the same data give the same bytes.
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    files.write_atomically(path, content.getvalue())
