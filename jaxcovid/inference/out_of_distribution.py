"""Is an image of the kind that the network was trained on?

A network answers for every image, a photograph of a cat too. The detector knows what the
training images look like as a whole: a thumbnail, gray values, and where edges run in which
direction (as in Dalal & Triggs 2005). It measures the Mahalanobis distance to them, with Ledoit and
Wolf's shrunk covariance, and flags what is farther than all but 2 % of held-out images. It does not
know whether an image is of the quality that a diagnosis needs.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from jaxcovid.data.picture_facts import sharpness, shrink
from jaxcovid.runtime.number_files import read_arrays, write_arrays
from jaxcovid.workdir.run import WorkdirError

FILE = "out_of_distribution.npz"
_FIRST_RELEASES_FILE = "guard.npz"
KEPT = 0.98  # of held-out images
MOST_IMAGES = 2000  # that it is made of
_FOLDS = 5
_LEAST_IMAGES = 20
_MOST_BYTES = 2**25  # of the file, unpacked
_CELLS, _DIRECTIONS = 4, 8
_LEAST_DEVIATION = 2.0  # gray levels; an image of less is blank
_LEAST_COLOUR = 16.0  # see `decoding.colour_of`; scans with coloured marks have up to 15


def features(gray: np.ndarray) -> np.ndarray:
    """What the detector looks at, float64 [393].

    Args:
      gray: uint8 [h, w].
    """
    height, width = gray.shape
    equalised = cv2.resize(cv2.equalizeHist(gray), (16, 16), interpolation=cv2.INTER_AREA) / 255
    values = [gray.mean(), gray.std(), *np.quantile(gray, (0.05, 0.25, 0.5, 0.75, 0.95))]
    detail = np.log1p(sharpness(shrink(gray)))
    small = cv2.resize(gray, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    right, down = cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1)
    turns = np.arctan2(down, right) / (2 * np.pi)
    direction = np.floor(turns * _DIRECTIONS).astype(int) % _DIRECTIONS
    place = np.arange(64) * _CELLS // 64
    cell = place[:, None] * _CELLS + place
    edges = np.bincount(
        (cell * _DIRECTIONS + direction).ravel(),
        np.hypot(right, down).ravel(),
        _CELLS * _CELLS * _DIRECTIONS,
    )
    edges /= max(float(np.linalg.norm(edges)), 1e-9)
    return np.concatenate(
        [equalised.ravel(), np.array(values) / 255, [detail, np.log(width / height)], edges]
    )


@dataclass(frozen=True)
class Detector:
    """What training images look like.

    Attributes:
      mean: of the features, float64 [393].
      scale: their standard deviation, 1 where it is 0.
      location: mean of the scaled features.
      precision: inverse of their covariance, float64 [393, 393].
      limit: squared Mahalanobis distance above which an image is flagged.
      colour_limit: of `decoding.colour_of`, above which it is.
    """

    mean: np.ndarray
    scale: np.ndarray
    location: np.ndarray
    precision: np.ndarray
    limit: float
    colour_limit: float

    def distance(self, values: np.ndarray) -> np.ndarray:
        """Squared distances float64 [n] of features [n, 393]."""
        off = (values - self.mean) / self.scale - self.location
        return ((off @ self.precision) * off).sum(1)

    def warning(self, gray: np.ndarray, colour: float = 0.0) -> str:
        """What is wrong with an image, empty if nothing is.

        Args:
          gray: uint8 [h, w].
          colour: see `decoding.colour_of`.
        """
        if gray.std() < _LEAST_DEVIATION:
            return "a blank image"
        if colour > self.colour_limit:
            return "a colour image, unlike those of the training"
        if (distance := self.distance(features(gray)[None])[0]) > self.limit:
            return f"unlike the training images ({np.sqrt(distance / self.limit):.1f} of the limit)"
        return ""

    def save(self, workdir: Path) -> None:
        """Writes `FILE`."""
        write_arrays(workdir / FILE, vars(self))


def find_file(workdir: Path) -> Path | None:
    """The file of the detector of a workdir; None if there is none."""
    paths = (workdir / FILE, workdir / _FIRST_RELEASES_FILE)
    return next((path for path in paths if path.is_file()), None)


def load_detector(workdir: Path) -> Detector | None:
    """The detector of a workdir; None if its training was not finished.

    Raises:
      WorkdirError: the file is damaged, or holds something else than numbers.
    """
    path = find_file(workdir)
    if path is None:
        return None
    try:
        arrays = read_arrays(path, Detector.__dataclass_fields__, most_bytes=_MOST_BYTES)
        n = len(arrays["mean"])
        for name, array in arrays.items():
            shape = {"precision": (n, n), "limit": (), "colour_limit": ()}.get(name, (n,))
            if array.dtype != np.float64 or array.shape != shape:
                raise ValueError(f"{name} is {array.dtype} {array.shape}")
    except Exception as error:  # each of its two formats has errors of its own
        raise WorkdirError(
            f"{path} is damaged: {error}; train again, or remove it to go without its warnings"
        ) from error
    return Detector(**{k: v if v.ndim else float(v) for k, v in arrays.items()})


def fit_detector(
    trained: Sequence[np.ndarray], held_out: Sequence[np.ndarray], colours: Sequence[float]
) -> Detector | None:
    """Fits a detector; None of fewer than 20 images.

    Args:
      trained: features of training images.
      held_out: of validation images.
      colours: of all of them.
    """
    from sklearn.model_selection import KFold

    if len(trained) < _LEAST_IMAGES:
        return None
    values, others = np.stack(trained), np.stack(held_out)
    parts = KFold(_FOLDS, shuffle=True, random_state=0).split(values)
    # Distances of images that a detector was not fitted on.
    distances = [_fit(values[rest]).distance(values[part]) for rest, part in parts]
    whole = _fit(values)
    limit = np.quantile(np.concatenate([*distances, whole.distance(others)]), KEPT)
    return Detector(
        **{
            **vars(whole),
            "limit": float(limit),
            "colour_limit": float(max(_LEAST_COLOUR, *colours)),
        }
    )


def _fit(values: np.ndarray) -> Detector:
    from sklearn.covariance import LedoitWolf

    mean, deviation = values.mean(0), values.std(0)
    scale = np.where(deviation > 0, deviation, 1.0)
    model = LedoitWolf().fit((values - mean) / scale)
    return Detector(mean, scale, model.location_, model.precision_, 0.0, 0.0)


def detector_of_sources(training: Any, validation: Any) -> Detector | None:
    """A detector fitted on the readable records of two splits, at most `MOST_IMAGES` of each."""
    from jaxcovid.data.decoding import ImageError, colour_of, decode_gray

    rng = np.random.default_rng(0)
    values: list[list[np.ndarray]] = []
    colours = []
    for source in (training, validation):
        chosen = rng.permutation(len(source))[:MOST_IMAGES].tolist()
        values.append([])
        for index in chosen:
            with contextlib.suppress(ImageError):
                data = source[index]["image"]
                colours.append(colour_of(data))
                values[-1].append(features(decode_gray(data)))
    return fit_detector(*values, colours)
