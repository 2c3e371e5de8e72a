"""A heatmap laid over the image that it explains."""

import cv2
import numpy as np


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
    height, width = image.shape
    large = cv2.resize(heatmap.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    large = large.clip(0, 1)
    bgr = cv2.applyColorMap(np.rint(255 * large).astype(np.uint8), cv2.COLORMAP_INFERNO)
    share = 0.65 * large[..., None]
    blended = (1 - share) * image[..., None] + share * cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return np.rint(blended).astype(np.uint8)
