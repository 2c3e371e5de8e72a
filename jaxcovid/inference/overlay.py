"""What a network sees in an image, laid over the image: heatmaps and the contours of masks."""

from collections.abc import Iterator

import cv2
import numpy as np

# Of masks, RGB: Okabe & Ito's, distinct with every common colour vision deficiency.
COLOURS = {"lungs": (0x56, 0xB4, 0xE9), "lesion": (0xE6, 0x9F, 0x00)}
_LEAST_SIDE = 320  # px, of a picture with room for a legend


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
    if image.ndim != 2 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"image is {image.dtype} {image.shape}; it must be uint8 [h, w]")
    if heatmap.ndim != 2 or not heatmap.size:
        raise ValueError(f"heatmap has shape {heatmap.shape}; it must be [h, w]")
    if not (heatmap.min() >= 0 and heatmap.max() <= 1):  # also true of NaN
        raise ValueError(f"heatmap lies in [{heatmap.min()}, {heatmap.max()}], not in [0, 1]")
    large, colours = coloured(heatmap, image.shape)
    share = 0.65 * large[..., None]
    return np.rint((1 - share) * image[..., None] + share * colours).astype(np.uint8)


def coloured(heatmap: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A heatmap at the size of its image, and in colours.

    Args:
      heatmap: float [any, any] in [0, 1].
      shape: height and width of the image, px.

    Returns:
      float32 [h, w] in [0, 1] and uint8 [h, w, 3], RGB.
    """
    height, width = shape
    large = cv2.resize(heatmap.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    large = large.clip(0, 1)
    bgr = cv2.applyColorMap(np.rint(255 * large).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return large, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def contours(gray: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Outlines lungs and lesion on a slice, one pixel wide and around them: they stay as they are.

    Where the picture is large enough its lower left corner names the colours.

    Args:
      gray: uint8 [h, w].
      masks: bool or uint8 [h, w, 2], lungs and lesion, inside where 1.

    Returns:
      uint8 [h, w, 3], RGB.

    Raises:
      ValueError: another shape or dtype.
    """
    if gray.ndim != 2 or gray.dtype != np.uint8 or not gray.size:
        raise ValueError(f"gray is {gray.dtype} {gray.shape}; it must be uint8 [h, w]")
    if masks.shape != (*gray.shape, len(COLOURS)):
        raise ValueError(f"masks are {masks.shape}; they must be {(*gray.shape, len(COLOURS))}")
    picture = np.dstack([gray] * 3)
    for outline, colour in outlines(masks):
        picture[outline] = colour
    if min(gray.shape) >= _LEAST_SIDE:
        _draw_legend(picture)
    return picture


def outlines(masks: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[int, int, int]]]:
    """Where masks are outlined, and in which colour.

    Args:
      masks: bool or uint8 [h, w, 2], lungs and lesion, inside where 1.

    Yields:
      bool [h, w], around the mask, and RGB.
    """
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    for mask, colour in zip(np.moveaxis(masks, -1, 0), COLOURS.values(), strict=True):
        inside = (mask == 1).astype(np.uint8)
        yield cv2.dilate(inside, cross) > inside, colour


def put_line(picture: np.ndarray, text: str, baseline: int, colour: tuple[int, int, int]) -> None:
    """Writes a line of text into a picture uint8 [h, w, 3], as large as its width has room for.

    Args:
      picture: is changed.
      text: what is not ASCII becomes "?".
      baseline: row, px.
      colour: RGB.
    """
    plain, font = text.encode("ascii", "replace").decode(), cv2.FONT_HERSHEY_SIMPLEX
    scale, room = 0.55, picture.shape[1] - 16
    width = cv2.getTextSize(plain, font, scale, 1)[0][0]
    scale *= min(1.0, room / max(width, 1))
    cv2.putText(picture, plain, (8, baseline), font, scale, colour, 1, cv2.LINE_AA)


def _draw_legend(picture: np.ndarray) -> None:
    """Names the colours in the lower left corner of a picture uint8 [h, w, 3]."""
    height, line = picture.shape[0], 16  # px
    picture[height - line * len(COLOURS) - 8 :, :84] = 0
    for row, (name, colour) in enumerate(COLOURS.items()):
        baseline = height - 8 - line * (len(COLOURS) - 1 - row)
        cv2.line(picture, (8, baseline - 4), (24, baseline - 4), colour, 2)
        cv2.putText(
            picture, name, (30, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA
        )
