"""Where the pixels of an image go in steps 1 and 3, see `preprocessing`."""

import cv2
import numpy as np


def random_affine(
    shape: tuple[int, int],
    *,
    rng: np.random.Generator,
    rotation_deg: float,
    translation_fraction: float,
) -> np.ndarray:
    """Draws the rotation about the centre and the shift of step 1.

    Args:
        shape: Height and width of the image, px.
        rng: Draws the angle, the shift in x and the shift in y, in this order.
        rotation_deg: The angle is uniform in [-rotation_deg, rotation_deg] degrees.
        translation_fraction: The shifts are uniform in [-f, f] times the width and the height.

    Returns:
        float64 [2, 3], from a pixel (x, y) to its new place.
    """
    height, width = shape
    angle_deg = rng.uniform(-rotation_deg, rotation_deg)
    shift_x = rng.uniform(-translation_fraction, translation_fraction) * width
    shift_y = rng.uniform(-translation_fraction, translation_fraction) * height
    # Pixel centres are at whole numbers, so the middle of the image is at (n - 1) / 2.
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle_deg, 1.0)
    matrix[:, 2] += shift_x, shift_y
    return matrix


def resized_shape(shape: tuple[int, int], size: int, keep_ratio: bool) -> tuple[int, int]:
    """Height and width of an image of some height and width after step 3, without padding."""
    if not keep_ratio:
        return size, size
    scale = size / max(shape)
    height, width = (max(1, round(scale * side)) for side in shape)
    return height, width


def resizing_affine(shape: tuple[int, int], *, size: int, keep_ratio: bool) -> np.ndarray:
    """Where step 3 puts the pixels of an image of some height and width.

    Returns:
        float64 [2, 3], from a pixel (x, y) to its place in the result; the image's edges to those
        of its part of the result.
    """
    height, width = resized_shape(shape, size, keep_ratio)
    top, left = (size - height) // 2, (size - width) // 2
    scale_x, scale_y = width / shape[1], height / shape[0]
    # Pixel centres are at whole numbers, so the edges are half a pixel outside of them.
    return np.array(
        [[scale_x, 0, (scale_x - 1) / 2 + left], [0, scale_y, (scale_y - 1) / 2 + top]], np.float64
    )
