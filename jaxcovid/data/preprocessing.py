"""The paper's five preprocessing steps, in the paper's order (section 4.1), on OpenCV.

1. random rotation and translation (training only), 2. histogram equalisation, 3. resize,
4. Gaussian blur 3x3, 5. mean and standard deviation. Ranges and fill value are those of the public
code that the recipe matches (jfhealthcare/Chexpert).

The result has one channel. It replaces the paper's three equal ones: the network repeats it, so
that no third copy is moved from the host to the device.

Masks follow their image through steps 1 and 3, in one sampling of nearest pixels. What training
changes at random beyond the paper's steps is in `augmentation`.
"""

import dataclasses

import cv2
import numpy as np

from jaxcovid.data.augmentation import Augmentation
from jaxcovid.data.geometry import random_affine, resized_shape, resizing_affine
from jaxcovid.data.structures import UNKNOWN


@dataclasses.dataclass(frozen=True)
class Drawn:
    """An image before step 1, with everything that is random about it.

    Attributes:
        image: uint8 [h, w].
        matrix: Of step 1, float64 [2, 3], from a pixel (x, y) to its new place; None leaves the
            step out.
        levels: The new of each gray value after step 4, uint8 [256]; None changes none.
    """

    image: np.ndarray
    matrix: np.ndarray | None = None
    levels: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """All five steps with their options.

    Attributes:
        size: Side of the square result, px.
        rotation_deg: Largest angle of the random rotation, degrees.
        translation_fraction: Largest shift, as a fraction of the width and of the height.
        fill: Gray value outside the image, 0..255.
        keep_ratio: Keep the ratio of the sides and pad with `fill`, instead of stretching.
        equalize: Take step 2; without, gray values keep their meaning from image to image.
        blur: Take step 4.
        mean: Fixed mean, in units of 0..255; None: that of each image.
        std: Fixed standard deviation, in units of 0..255; None: that of each image.
        augmentation: What else is random, in training.
    """

    size: int = 256
    rotation_deg: float = 15.0
    translation_fraction: float = 0.05
    fill: int = 128
    keep_ratio: bool = False
    equalize: bool = True
    blur: bool = True
    mean: float | None = None
    std: float | None = None
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size {self.size} is no number of pixels; give 1 or more")
        if not 0 <= self.rotation_deg <= 180:
            raise ValueError(f"rotation_deg {self.rotation_deg} is not in 0..180 degrees")
        if not 0 <= self.translation_fraction < 1:
            raise ValueError(f"translation_fraction {self.translation_fraction} is not in [0, 1)")
        if not 0 <= self.fill <= 255:
            raise ValueError(f"fill {self.fill} is not a gray value, 0..255")
        if (self.mean is None) != (self.std is None):
            raise ValueError(
                f"mean {self.mean} and std {self.std}: give both, or neither to take each image's"
            )
        if self.std is not None and self.std <= 0:
            raise ValueError(f"std {self.std} is not positive")

    def __call__(self, image: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """Prepares one image for the network.

        Args:
            image: Gray image, uint8 [h, w], 0..255.
            rng: Source of all that is random; None leaves it out (evaluation).

        Returns:
            float32 [size, size, 1], mean 0 and standard deviation 1 unless constants are fixed.
        """
        return self.steps(image, rng)["normalize"][..., np.newaxis]

    def with_masks(
        self, image: np.ndarray, masks: np.ndarray, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Prepares one image and its masks, both moved by the same draw.

        Args:
            image: See a call, as is `rng`.
            masks: uint8 [h, w, c], see `masks.decode_masks`.
            rng: See a call.

        Returns:
            The image as a call gives it, and the masks as `place_masks` does.
        """
        drawn = self.draw(image, rng)
        prepared = self._steps(drawn)["normalize"][..., np.newaxis]
        return prepared, self.place_masks(masks, drawn.matrix)

    def steps(
        self, image: np.ndarray, rng: np.random.Generator | None = None
    ) -> dict[str, np.ndarray]:
        """Returns the image after each step, by the step's name; the arguments of a call."""
        return self._steps(self.draw(image, rng))

    def draw(self, image: np.ndarray, rng: np.random.Generator | None) -> Drawn:
        """Draws all that is random of an image uint8 [h, w]; nothing without `rng`."""
        if rng is None:
            return Drawn(image)
        matrix = random_affine(
            image.shape,
            rng=rng,
            rotation_deg=self.rotation_deg,
            translation_fraction=self.translation_fraction,
        )
        return Drawn(
            matrix=matrix @ self.augmentation.affine(image.shape, rng),
            image=self.augmentation.alter(image, rng, size=self.size, fill=self.fill),
            levels=self.augmentation.levels(rng),
        )

    def _steps(self, drawn: Drawn) -> dict[str, np.ndarray]:
        """The image after each step."""
        done, image = {}, drawn.image
        if drawn.matrix is not None:
            image = done["rotate_and_translate"] = rotate_and_translate(
                image, drawn.matrix, fill=self.fill
            )
        if self.equalize:
            image = done["equalize_histogram"] = equalize_histogram(image)
        image = done["resize"] = resize(
            image, size=self.size, keep_ratio=self.keep_ratio, fill=self.fill
        )
        if self.blur:
            image = done["blur"] = blur(image)
        if drawn.levels is not None:
            image = cv2.LUT(image, drawn.levels)
        done["normalize"] = normalize(image, mean=self.mean, std=self.std)
        return done

    def restore(self, result: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Undoes step 3 for what a network says of each pixel of its input.

        Args:
            result: float32 [size, size, c].
            shape: Height and width of the image.

        Returns:
            float32 [h, w, c], bilinear.
        """
        height, width = resized_shape(shape, self.size, self.keep_ratio)
        top, left = (self.size - height) // 2, (self.size - width) // 2
        inside = result[top : top + height, left : left + width]
        restored = cv2.resize(inside, shape[::-1], interpolation=cv2.INTER_LINEAR)
        return restored.reshape(*shape, result.shape[-1])

    def place_masks(self, masks: np.ndarray, matrix: np.ndarray | None = None) -> np.ndarray:
        """Takes masks through steps 1 and 3, each new pixel from the nearest old one.

        Args:
            masks: uint8 [h, w, c], 0, 1 or, over a whole channel, UNKNOWN.
            matrix: See `Drawn`.

        Returns:
            uint8 [size, size, c]; 0 outside the image, but UNKNOWN in a channel that is.
        """
        to_result = resizing_affine(masks.shape[:2], size=self.size, keep_ratio=self.keep_ratio)
        if matrix is not None:
            to_result = to_result @ np.vstack([matrix, (0, 0, 1)])
        outside = np.where(masks[0, 0] == UNKNOWN, UNKNOWN, 0)
        return cv2.warpAffine(
            masks,
            to_result,
            (self.size, self.size),
            flags=cv2.INTER_NEAREST,
            borderValue=outside.tolist(),
        )


def rotate_and_translate(image: np.ndarray, matrix: np.ndarray, *, fill: int = 128) -> np.ndarray:
    """Step 1: rotates and shifts, in one interpolation.

    Args:
        image: uint8 [h, w].
        matrix: float64 [2, 3], see `geometry.random_affine`.
        fill: Gray value of what comes into view from outside.

    Returns:
        uint8 [h, w].
    """
    return cv2.warpAffine(
        image, matrix, image.shape[::-1], flags=cv2.INTER_LINEAR, borderValue=(fill,)
    )


def equalize_histogram(image: np.ndarray) -> np.ndarray:
    """Step 2: spreads the gray values by their cumulative histogram; uint8 [h, w] to the same."""
    return cv2.equalizeHist(image)


def resize(
    image: np.ndarray, *, size: int, keep_ratio: bool = False, fill: int = 128
) -> np.ndarray:
    """Step 3: resizes, by area along a side that shrinks and linearly along one that grows.

    Args:
        image: uint8 [h, w].
        size: Side of the result, px.
        keep_ratio: Keep the ratio of the sides and pad with `fill` on both ends.
        fill: Gray value of the padding.

    Returns:
        uint8 [size, size].
    """
    height, width = image.shape
    new_height, new_width = resized_shape(image.shape, size, keep_ratio)
    # OpenCV's area mode needs both sides to shrink, so a side that grows waits for the second call.
    shrunk = (min(width, new_width), min(height, new_height))
    image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
    image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    return cv2.copyMakeBorder(
        image,
        top,
        size - new_height - top,
        left,
        size - new_width - left,
        cv2.BORDER_CONSTANT,
        value=(fill,),
    )


def blur(image: np.ndarray) -> np.ndarray:
    """Step 4: Gaussian blur, 3x3, with OpenCV's own kernel for that size, [1, 2, 1] / 4 a side.

    Args:
        image: uint8 [h, w].

    Returns:
        uint8 [h, w].
    """
    return cv2.GaussianBlur(image, (3, 3), 0)


def normalize(
    image: np.ndarray, *, mean: float | None = None, std: float | None = None
) -> np.ndarray:
    """Step 5: subtracts the mean and divides by the standard deviation.

    Args:
        image: uint8 [h, w].
        mean: Fixed mean, in units of 0..255; None: the image's own.
        std: Fixed standard deviation, in units of 0..255; None: the image's own.

    Returns:
        float32 [h, w]; zeros if the image is constant and `std` is its own.
    """
    own_mean, own_std = (value.item() for value in cv2.meanStdDev(image))
    mean = own_mean if mean is None else mean
    std = own_std if std is None else std
    # There are 256 gray values only, so each is normalised once.
    values = np.arange(256, dtype=np.float32)
    return cv2.LUT(image, (values - np.float32(mean)) / np.float32(std or 1.0))
