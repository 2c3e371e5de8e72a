"""Galleries: images beside the heatmaps that explain their scores, slices with outlined masks."""

from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jaxcovid.evaluation.result import Explanation
from jaxcovid.evaluation.segmentation_result import OutlinedSlice
from jaxcovid.inference.overlay import COLOURS, contours, overlay
from jaxcovid.report.png import DARK, as_png

_OUTLINE = COLOURS["lungs"]
_SIDE = 288  # px, of a tile
_MARGIN = 4  # px, around the picture in it
_DPI = 120


def heatmap_gallery(explanations: Sequence[Explanation]) -> bytes:
    """Draws each image beside itself under its heatmap, and under the decoder's map; two a row.

    Args:
      explanations: at least one; images of any sizes.

    Returns:
      PNG.

    Raises:
      ValueError: no image, a mask of another size, or what `overlay` refuses.
    """
    if not explanations:
        raise ValueError("a gallery needs at least one image")
    strips = [
        np.hstack([_tile(picture, each.mask) for picture in _pictures(each)])
        for each in explanations
    ]
    columns = min(2, len(strips))
    rows = -(-len(strips) // columns)
    width = max(strip.shape[1] for strip in strips) / _SIDE
    figure = Figure(figsize=(2.5 * width * columns, 2.9 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for cell in axes.flat:
        cell.set_axis_off()
    for cell, strip, each in zip(axes.flat[: len(strips)], strips, explanations, strict=True):
        cell.imshow(strip)
        cell.set_title(_shortened(each.caption), loc="left", fontsize=9, color=DARK)
    _colour_bar(figure, axes)
    return as_png(figure, dpi=_DPI)


def _pictures(each: Explanation) -> list[np.ndarray]:
    """The image uint8 [h, w, 3], then as often again as there are maps to lay over it."""
    maps = [each.heatmap] if each.lesion is None else [each.heatmap, each.lesion]
    return [np.dstack([each.image] * 3), *(overlay(each.image, one) for one in maps)]


def contour_sheet(slices: Sequence[OutlinedSlice], columns: int = 5) -> bytes:
    """Draws slices with their masks outlined, `columns` a row: forty are one page.

    Args:
      slices: at least one; of any sizes.
      columns: of the sheet.

    Returns:
      PNG.

    Raises:
      ValueError: no slice, or what `overlay.contours` refuses.
    """
    if not slices:
        raise ValueError("a sheet needs at least one slice")
    columns = min(columns, len(slices))
    rows = -(-len(slices) // columns)
    caption, legend = 20, 40  # px, over each tile and below all
    width, height = columns * _SIDE, rows * (_SIDE + caption) + legend
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    for index, each in enumerate(slices):
        row, column = divmod(index, columns)
        left, bottom = column * _SIDE, legend + (rows - 1 - row) * (_SIDE + caption)
        figure.figimage(_outlined_tile(each), left, bottom, origin="upper")
        x, y = (left + _MARGIN) / width, (bottom + _SIDE + 2) / height
        figure.text(x, y, _shortened(each.caption, 38), fontsize=7, color=DARK, va="bottom")
    colours = {name: np.divide(colour, 255) for name, colour in COLOURS.items()}
    lines = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=lines, loc="lower center", ncols=2, frameon=False, fontsize=8)
    return as_png(figure, dpi=_DPI)


def _outlined_tile(each: OutlinedSlice) -> np.ndarray:
    """A slice with outlines that are one pixel wide in its tile, uint8 [side, side, 3]."""
    if each.masks.shape[:2] != each.gray.shape:
        raise ValueError(f"masks are {each.masks.shape} but their slice {each.gray.shape}")
    masks = _scaled(each.masks.astype(np.uint8), cv2.INTER_NEAREST)
    return _on_square(contours(_scaled(each.gray), masks))


def _tile(picture: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The picture uint8 [h, w, 3] on a white square, uint8 [side, side, 3], the mask outlined."""
    scaled = _scaled(picture)
    if mask is not None:
        if mask.shape != picture.shape[:2]:
            raise ValueError(f"mask is {mask.shape} but its image {picture.shape[:2]}")
        inside = _scaled(mask.astype(np.uint8), cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(scaled, outlines, -1, _OUTLINE, 1, lineType=cv2.LINE_AA)
    return _on_square(scaled)


def _scaled(picture: np.ndarray, interpolation: int | None = None) -> np.ndarray:
    """A picture uint8 [h, w, ...] in the largest size that fits into a tile."""
    height, width = picture.shape[:2]
    inner = _SIDE - 2 * _MARGIN
    size = tuple(max(1, round(inner * x / max(height, width))) for x in (width, height))
    if interpolation is None:
        shrinks = max(height, width) > inner
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(picture, size, interpolation=interpolation)


def _on_square(picture: np.ndarray) -> np.ndarray:
    """A picture uint8 [h, w, 3] that fits into a tile in the middle of a white one."""
    tile = np.full((_SIDE, _SIDE, 3), 255, np.uint8)
    height, width = picture.shape[:2]
    top, left = (_SIDE - height) // 2, (_SIDE - width) // 2
    tile[top : top + height, left : left + width] = picture
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


def _shortened(caption: str, longest: int = 64) -> str:
    """Long lines lose their middle, where ids differ least."""
    kept = longest // 2
    lines = caption.splitlines()
    return "\n".join(x if len(x) <= longest else f"{x[: kept - 1]}…{x[-kept:]}" for x in lines)
