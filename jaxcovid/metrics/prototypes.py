"""Classification by the nearest prototype, after xDNN (Angelov & Soares, arXiv:1912.02523).

The paper that this project follows compares itself with it (reference [2], Table V).
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Prototypes:
    """Vectors of a class that were the most or the least typical of it when they came.

    Vectors come one by one, of unit length. One whose density among those before it is above that
    of every prototype, or below, becomes a prototype itself; any other moves the nearest one.

    Attributes:
      vectors: of the prototypes, each [c].
      support: how many vectors each stands for.
      mean: of all vectors that came.
      count: how many came.
    """

    vectors: list[np.ndarray] = field(default_factory=list)
    support: list[int] = field(default_factory=list)
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    count: int = 0

    def add(self, vector: np.ndarray) -> None:
        """Takes in a vector [c] of unit length."""
        self.count += 1
        if self.count == 1:
            self.mean = vector
            self._become_prototype(vector)
            return
        self.mean = self.mean + (vector - self.mean) / self.count
        density, *of_prototypes = self._densities([vector, *self.vectors])
        if density > max(of_prototypes) or density < min(of_prototypes):
            self._become_prototype(vector)
            return
        nearest = int(self.distances(vector[None])[0].argmin())
        self.support[nearest] += 1
        self.vectors[nearest] += (vector - self.vectors[nearest]) / self.support[nearest]

    def distances(self, vectors: np.ndarray) -> np.ndarray:
        """Squared distances [n, prototypes] of vectors [n, c]."""
        from scipy.spatial.distance import cdist  # training imports metrics and needs no distances

        return cdist(vectors, np.stack(self.vectors), "sqeuclidean")

    def _become_prototype(self, vector: np.ndarray) -> None:
        self.vectors.append(vector.copy())
        self.support.append(1)

    def _densities(self, vectors: list[np.ndarray]) -> np.ndarray:
        """Of each vector among all that came: a Cauchy function of its distance to their mean."""
        deviation = max(1 - np.square(self.mean).sum(), np.finfo(float).eps)
        return 1 / (1 + np.square(np.stack(vectors) - self.mean).sum(-1) / deviation)


class PrototypeClassifier:
    """Calls positive what is nearer to a prototype of the positive class than to any other.

    The score is the share of the positive class in the similarities 1 / (1 + d^2) to the nearest
    prototype of each, d being their distance.
    """

    def fit(self, features: np.ndarray, positive: np.ndarray) -> "PrototypeClassifier":
        """Takes in features [n, c] in their order, with their classes, bool [n].

        Raises:
          ValueError: a class without an image.
        """
        if positive.all() or not positive.any():
            raise ValueError(
                f"{positive.sum()} of {len(positive)} images are positive; both needed"
            )
        self.classes = {True: Prototypes(), False: Prototypes()}
        for vector, label in zip(_of_unit_length(features), positive, strict=True):
            self.classes[bool(label)].add(vector)
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Scores float64 [n] of features [n, c]; above 0.5 is positive."""
        vectors = _of_unit_length(features)
        yes, no = (
            1 / (1 + self.classes[label].distances(vectors).min(1)) for label in (True, False)
        )
        return yes / (yes + no)


def _of_unit_length(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
