"""The pictures of a slice: gray, and layers that a page fades in over it."""

import numpy as np

from jaxcovid.inference.overlay import coloured, contours, outlines, overlay, put_line
from jaxcovid.serving.decoding import encode

_LINE = 24  # px


def heatmap_layer(heatmap: np.ndarray, shape: tuple[int, int]) -> bytes:
    """A PNG of a heatmap, as opaque as it is high: what is 0 is not seen.

    Args:
      heatmap: float32 [any, any] in 0 to 1.
      shape: height and width of the slice, px.
    """
    large, colours = coloured(heatmap, shape)
    return encode(np.dstack([colours[..., ::-1], np.rint(255 * large).astype(np.uint8)]))


def contour_layer(masks: np.ndarray) -> bytes:
    """A PNG of the outlines of lungs and lesion, transparent elsewhere.

    Args:
      masks: bool [h, w, 2].
    """
    picture = np.zeros((*masks.shape[:2], 4), np.uint8)
    for outline, (red, green, blue) in outlines(masks):
        picture[outline] = (blue, green, red, 255)
    return encode(picture)


def labelled(picture: np.ndarray, text: str) -> np.ndarray:
    """A picture uint8 [h, w, 3], RGB, with a line of text below it that fits its width."""
    band = np.zeros((_LINE, picture.shape[1], 3), np.uint8)
    put_line(band, text, _LINE - 8, (255, 200, 0))
    return np.vstack([picture, band])


def whole_picture(
    gray: np.ndarray, heatmap: np.ndarray | None, masks: np.ndarray | None
) -> np.ndarray:
    """A slice with its heatmap and its contours, uint8 [h, w, 3], RGB.

    Args:
      gray: uint8 [h, w].
      heatmap: float32 [any, any] in 0 to 1, or None.
      masks: bool [h, w, 2], or None.
    """
    picture = np.dstack([gray] * 3) if heatmap is None else overlay(gray, heatmap)
    if masks is None:
        return picture
    plain, outlined = np.dstack([gray] * 3), contours(gray, masks)
    return np.where((outlined != plain).any(-1, keepdims=True), outlined, picture)
