"""The pictures of a slice: gray, and layers that a page fades in over it."""

import cv2
import numpy as np

from jaxcovid.inference.overlay import COLOURS, contours, overlay
from jaxcovid.serving.decoding import encode


def heatmap_layer(heatmap: np.ndarray, shape: tuple[int, int]) -> bytes:
    """A PNG of a heatmap, as opaque as it is high: what is 0 is not seen.

    Args:
      heatmap: float32 [any, any] in 0 to 1.
      shape: height and width of the slice, px.
    """
    large = cv2.resize(heatmap.astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
    levels = np.rint(255 * large.clip(0, 1)).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)
    return encode(np.dstack([colours, levels]))


def contour_layer(masks: np.ndarray) -> bytes:
    """A PNG of the outlines of lungs and lesion, transparent elsewhere.

    Args:
      masks: bool [h, w, 2].
    """
    picture = np.zeros((*masks.shape[:2], 4), np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    for mask, (red, green, blue) in zip(np.moveaxis(masks, -1, 0), COLOURS.values(), strict=True):
        inside = mask.astype(np.uint8)
        picture[cv2.dilate(inside, kernel) > inside] = (blue, green, red, 255)
    return encode(picture)


def labelled(picture: np.ndarray, text: str) -> np.ndarray:
    """A picture uint8 [h, w, 3], RGB, with a line of text below it that fits its width."""
    height, width = 22, picture.shape[1]
    band = np.zeros((height, width, 3), np.uint8)
    font, (needed, _) = cv2.FONT_HERSHEY_SIMPLEX, cv2.getTextSize(text, 0, 0.5, 1)[0]
    scale = min(0.5, 0.5 * (width - 8) / max(needed, 1))
    cv2.putText(band, text, (4, height - 7), font, scale, (255, 200, 0), 1, cv2.LINE_AA)
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
