"""The gallery: images beside the heatmaps that explain their scores."""

from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from jaxcovid.evaluation.result import Explanation
from jaxcovid.inference.overlay import overlay
from jaxcovid.report.png import DARK, as_png

_OUTLINE = (0x56, 0xB4, 0xE9)


def heatmap_gallery(explanations: Sequence[Explanation]) -> bytes:
    """Draws each image beside itself under its heatmap, two such pairs a row.

    Args:
      explanations: at least one; images of any sizes.

    Returns:
      PNG.

    Raises:
      ValueError: no image, a mask of another size, or what `overlay` refuses.
    """
    if not explanations:
        raise ValueError("a gallery needs at least one image")
    pairs = [
        np.hstack(
            [
                _tile(picture, each.mask)
                for picture in (np.dstack([each.image] * 3), overlay(each.image, each.heatmap))
            ]
        )
        for each in explanations
    ]
    columns = min(2, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = Figure(figsize=(5 * columns, 2.9 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for cell in axes.flat:
        cell.set_axis_off()
    for cell, pair, each in zip(axes.flat[: len(pairs)], pairs, explanations, strict=True):
        cell.imshow(pair)
        cell.set_title(_shortened(each.caption), loc="left", fontsize=9, color=DARK)
    _colour_bar(figure, axes)
    return as_png(figure, dpi=120)


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


def _colour_bar(figure: Figure, axes: np.ndarray) -> None:
    """The heatmap's scale under the grid."""
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
    bar.ax.set_xticklabels(["no evidence", "most evidence"], fontsize=8, color=DARK)
    bar.outline.set_visible(False)


def _shortened(caption: str) -> str:
    """Long lines lose their middle, where ids differ least."""
    lines = caption.splitlines()
    return "\n".join(x if len(x) <= 64 else f"{x[:31]}…{x[-32:]}" for x in lines)
