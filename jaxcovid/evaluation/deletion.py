"""Deletion curves: how fast the probability falls as the pixels that a map rates highest disappear.

Petsiuk et al. 2018, arXiv:1806.07421, with the image's blurred version in place of what is deleted:
a constant would draw edges that no image has. A map that shows what the network uses makes the
probability fall sooner, so that the area under its curve is smaller than in random order.
"""

from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np

from jaxcovid.inference.predictor import Predictor

RANDOM = "random order"

# Of the pixels that are deleted; closer where maps differ, as a lesion is a small part of an image.
SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
_BLUR = 5 / 224  # standard deviation of the blur over the side, as in the paper
_GRID = 16  # pixels of the input a cell of random order, as of a heatmap
_SEED = 0


def deletion_areas(
    predictor: Predictor,
    images: Sequence[np.ndarray],
    maps: Mapping[str, np.ndarray | Sequence[np.ndarray]],
) -> dict[str, np.ndarray]:
    """Areas under the deletion curves, of several explanations of the same images.

    Pixels are deleted of the network's input, after the preprocessing. Equally rated pixels go in
    random order, which is as coarse as a heatmap: in cells of 16 pixels, enlarged in the same way.
    Pixel by pixel no part of an image would be left intact, and none deleted.

    Args:
      predictor: the network.
      images: n gray images, uint8 [h, w].
      maps: by the name of the explanation, n maps float [any, any] that cover the image.

    Returns:
      By name, and `RANDOM` for random order alone, float64 [n] in [0, 1]: the area under the
      probability of the positive class over the share of deleted pixels. NaN where the map is 0
      everywhere.
    """
    rng = np.random.default_rng(_SEED)
    areas = {name: np.full(len(images), np.nan) for name in (*maps, RANDOM)}
    # Whole batches: as many images at once as go through the network.
    for start in range(0, len(images), predictor.batch_size):
        rows = range(start, min(start + predictor.batch_size, len(images)))
        curves: list[tuple[str, int]] = []
        inputs: list[np.ndarray] = []
        prepared = predictor.prepare([images[row] for row in rows])
        for row, image, view in zip(rows, *prepared, strict=True):
            random = _enlarged(rng.random((-(-len(image) // _GRID),) * 2), len(image))
            ratings = {
                name: _enlarged(view.cut(each[row]), len(image)) for name, each in maps.items()
            }
            ratings = {name: rating for name, rating in ratings.items() if rating.any()}
            for name, rating in (*ratings.items(), (RANDOM, random)):
                curves.append((name, row))
                inputs += _deleted(image, rating, random)
        probability = predictor.probabilities_of_inputs(inputs)[:, 0].reshape(len(curves), -1)
        for (name, row), curve in zip(curves, probability, strict=True):
            areas[name][row] = np.trapezoid(curve, SHARES)
    return areas


def _deleted(image: np.ndarray, rating: np.ndarray, ties: np.ndarray) -> Iterator[np.ndarray]:
    """An input float32 [size, size, 1] at each of the shares.

    Args:
      image: the input.
      rating: float [size, size], the highest is deleted first.
      ties: float [size, size], the highest of equally rated pixels first.
    """
    order = np.lexsort((-ties.ravel(), -rating.ravel()))
    rank = np.empty(order.size)
    rank[order] = np.arange(order.size) / order.size
    blurred = cv2.GaussianBlur(image, (0, 0), _BLUR * len(image))[..., np.newaxis]
    for share in SHARES:
        yield np.where(rank.reshape(image.shape) < share, blurred, image)


def _enlarged(rating: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(rating.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
