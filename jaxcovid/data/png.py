"""Arrays to PNG files."""

import cv2
import numpy as np


def encode_png(image: np.ndarray) -> bytes:
    """Encodes an image as PNG, with OpenCV's default compression.

    Args:
      image: uint8 or uint16, gray [h, w] or in OpenCV's order of channels, BGR [h, w, 3].
    """
    return cv2.imencode(".png", image)[1].tobytes()
