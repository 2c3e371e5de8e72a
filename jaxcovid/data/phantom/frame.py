"""The plane of a phantom slice: millimetres in the patient to pixels, and shapes drawn in it."""

import dataclasses
import math

import cv2
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

FINE = 2  # solids and vessels are drawn this much finer, which smooths their edges


@dataclasses.dataclass(frozen=True)
class Frame:
    """Patient frame (mm) to work grid (pixels)."""

    scale: float  # pixels per mm
    origin: tuple[float, float]  # column, row of the patient's origin
    angle: float  # radians
    shape: tuple[int, int]  # rows, columns of the work grid

    def points(self, points: npt.ArrayLike, *, fine: int = 1) -> npt.NDArray[np.int32]:
        """Pixels in 1/16, as OpenCV's `shift=4` reads them: float [n, 2] mm -> int32 [n, 2]."""
        x, y = np.asarray(points, np.float64).T
        c, s = math.cos(self.angle), math.sin(self.angle)
        column = (c * x - s * y) * self.scale + self.origin[0]
        row = (s * x + c * y) * self.scale + self.origin[1]
        return np.rint(np.stack([column, row], -1) * fine * 16).astype(np.int32)

    def fill(self, image: npt.NDArray, points: npt.ArrayLike, value: float, fine: int = 1) -> None:
        """Fills a polygon, float [n, 2] mm, in place."""
        cv2.fillPoly(image, [self.points(points, fine=fine)], value, shift=4)

    def stroke(self, image: npt.NDArray, points: npt.ArrayLike, value: float, width: float) -> None:
        """Draws an open line of `width` mm, float [n, 2] mm, on a fine grid in place."""
        pixels = max(1, round(width * self.scale * FINE))
        cv2.polylines(image, [self.points(points, fine=FINE)], False, value, pixels, shift=4)

    def grid(self) -> tuple[FloatArray, FloatArray]:
        """The patient's x and y, mm, of each pixel: two float32 [h, w]."""
        u = (np.arange(self.shape[1], dtype=np.float32)[None] - self.origin[0]) / self.scale
        v = (np.arange(self.shape[0], dtype=np.float32)[:, None] - self.origin[1]) / self.scale
        c, s = math.cos(self.angle), math.sin(self.angle)
        return c * u + s * v, c * v - s * u


def smooth_step(x: npt.ArrayLike, low: float, high: float) -> FloatArray:
    """Smooth step: 0 at `low`, 1 at `high` (which may be the smaller one)."""
    t = np.clip((np.asarray(x, np.float32) - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], grain: float) -> FloatArray:
    """Smooth noise of mean 0 and standard deviation about 1: float32 [h, w], grain in pixels."""
    size = [max(4, math.ceil(n / grain) + 3) for n in shape]
    coarse = cv2.GaussianBlur(rng.standard_normal(size, np.float32), (3, 3), 0.6)
    full = cv2.resize(
        coarse / coarse.std(), None, fx=grain, fy=grain, interpolation=cv2.INTER_CUBIC
    )
    return full[: shape[0], : shape[1]]


def ellipse(x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> npt.NDArray:
    """Outline of an ellipse: float [48, 2] mm, tilt in radians."""
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    u, v = rx * np.cos(t), ry * np.sin(t)
    c, s = math.cos(tilt), math.sin(tilt)
    return np.stack([x + c * u - s * v, y + s * u + c * v], -1)
