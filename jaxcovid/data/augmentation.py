"""Random changes of training images beyond the paper's rotation and shift; by default none.

What differs between two hospitals, or two ways in which a slice came into a publication, should say
nothing about the patient: the field of view, the window, the file format, sharpness and noise, and
what is written along the border. Each change imitates one of these, so that a network cannot rely
on it (DeGrave et al. 2021, doi 10.1038/s42256-021-00338-7, on what it relies on without).
"""

import dataclasses
import math

import cv2
import numpy as np

_MIDDLE = 127.5  # gray value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The largest changes; those of an image are drawn uniformly up to them.

    Attributes:
        scale: Smallest and largest factor of the size about the image's centre, uniform in its
            logarithm. What leaves the frame is cropped.
        stretch: Largest factor between the scales in x and y, 1 or more, uniform in its logarithm.
        flip: Probability that left and right change places.
        window: Largest change of the window through which values are seen: of its centre in shares
            of half its width, and of its width as a share; below 1. What leaves it saturates.
        gamma: Largest exponent g, 1 or more, from 1 / g on, uniform in its logarithm; of the gray
            values after step 4, as step 2 would undo it before.
        noise: Largest standard deviation of normal noise, gray values of 255, as it is left after
            the image has shrunk to the network's size.
        blur_px: Largest standard deviation of a Gaussian blur, pixels of the network's input.
        jpeg_quality: Lowest quality of a JPEG that the image is saved as, 1 to 100; 100 saves none.
        border: Largest share of the height and width, on each side, that is filled; below 0.5.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    stretch: float = 1.0
    flip: float = 0.0
    window: float = 0.0
    gamma: float = 1.0
    noise: float = 0.0
    blur_px: float = 0.0
    jpeg_quality: int = 100
    border: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"augmentation.scale is {low} to {high}; give 0 < smallest <= largest")
        for name in ("stretch", "gamma"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"augmentation.{name} is {getattr(self, name)}; give 1 or more")
        for name, limit in (("flip", 1), ("window", 0.99), ("border", 0.49)):
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"augmentation.{name} is {getattr(self, name)}; give 0 to {limit}")
        for name in ("noise", "blur_px"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"augmentation.{name} is {getattr(self, name)}; give 0 or more")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"augmentation.jpeg_quality is {self.jpeg_quality}; give 1 to 100")

    def affine(self, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Draws scale, stretch and flip about the centre of an image.

        Args:
            shape: Height and width of the image, px.
            rng: Source of what is drawn, which is nothing of an option that changes nothing.

        Returns:
            float64 [3, 3], from a pixel (x, y, 1) to its new place.
        """
        logarithm = 0.0
        if self.scale != (1.0, 1.0):
            logarithm = rng.uniform(*np.log(self.scale))
        half = math.log(self.stretch) / 2
        apart = rng.uniform(-half, half) if half else 0.0
        mirror = -1 if self.flip and rng.random() < self.flip else 1
        # Pixel centres are at whole numbers, so the middle of the image is at (n - 1) / 2.
        centre = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
        factors = np.array([mirror * math.exp(logarithm + apart), math.exp(logarithm - apart)])
        matrix = np.diag([*factors, 1.0])
        matrix[:2, 2] = centre - factors * centre
        return matrix

    def alter(
        self, image: np.ndarray, rng: np.random.Generator, *, size: int, fill: int
    ) -> np.ndarray:
        """Changes what does not move: window, sharpness, noise, file format, border.

        Args:
            image: uint8 [h, w], as it was decoded; is not written to.
            rng: Source of what is drawn, which is nothing of an option that changes nothing.
            size: Side of the network's input, px.
            fill: Gray value of the border.

        Returns:
            uint8 [h, w].
        """
        shrinks = max(1.0, math.sqrt(image.size) / size)  # factor of a side
        if self.window:
            wider, shift = rng.uniform(-self.window, self.window, 2)
            centre = _MIDDLE * (1 + shift)
            image = cv2.LUT(image, _levels((np.arange(256) - centre) / (1 + wider) + _MIDDLE))
        if self.blur_px and (sigma := shrinks * rng.uniform(0, self.blur_px)) > 0.1:
            image = cv2.GaussianBlur(image, (0, 0), sigma)
        if self.noise:
            deviation = np.float32(shrinks * rng.uniform(0, self.noise))
            image = _levels(image + deviation * rng.standard_normal(image.shape, np.float32))
        if self.jpeg_quality < 100:
            quality = int(rng.integers(self.jpeg_quality, 101))
            _, encoded = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))
            image = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
        if self.border:
            (top, bottom), (left, right) = (
                np.round(rng.uniform(0, self.border, 2) * side).astype(int) for side in image.shape
            )
            inside = np.full_like(image, fill)
            rows, columns = slice(top, len(image) - bottom), slice(left, image.shape[1] - right)
            inside[rows, columns] = image[rows, columns]
            image = inside
        return image

    def levels(self, rng: np.random.Generator) -> np.ndarray | None:
        """Draws the new of each gray value, uint8 [256], from `gamma`; None if it is 1."""
        if self.gamma == 1:
            return None
        exponent = math.exp(rng.uniform(-1, 1) * math.log(self.gamma))
        return _levels(255 * (np.arange(256) / 255) ** exponent)


def _levels(values: np.ndarray) -> np.ndarray:
    """The nearest gray values uint8 of real ones."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
