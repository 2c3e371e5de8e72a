"""Classification by prototypes: what becomes one, and what is called positive."""

import numpy as np
import pytest

from jaxcovid.metrics.prototypes import PrototypeClassifier, Prototypes


def clusters(n, seed=0):
    """Points about the first axis, of which each second is about the second axis instead."""
    rng = np.random.default_rng(seed)
    positive = np.arange(n) % 2 == 1
    centres = np.eye(8)[positive.astype(int)]
    return centres + rng.normal(0, 0.2, (n, 8)), positive


def test_two_clusters_are_told_apart():
    classifier = PrototypeClassifier().fit(*clusters(100))
    features, positive = clusters(60, seed=1)
    scores = classifier.predict(features)
    assert ((scores > 0.5) == positive).mean() > 0.9
    np.testing.assert_allclose(scores, classifier.predict(7 * features))  # direction alone counts


def test_every_vector_is_a_prototype_or_moves_one():
    rng = np.random.default_rng(0)
    vectors = rng.normal(1, 1, (50, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    prototypes = Prototypes()
    for vector in vectors:
        prototypes.add(vector)
    assert 1 < len(prototypes.vectors) < 50
    assert sum(prototypes.support) == prototypes.count == 50
    np.testing.assert_allclose(prototypes.mean, vectors.mean(0))
    # A prototype is the mean of what it stands for.
    weights = np.array(prototypes.support)[:, None] / 50
    np.testing.assert_allclose((weights * prototypes.vectors).sum(0), vectors.mean(0))


def test_the_most_and_the_least_typical_become_prototypes():
    prototypes = Prototypes()
    for degrees in (0, 20, 10, 90):
        angle = np.radians(degrees)
        prototypes.add(np.array([np.cos(angle), np.sin(angle)]))
    # The second is as far from the mean as the first and moves it, to the mean of both.
    both = np.array([1 + np.cos(np.radians(20)), np.sin(np.radians(20))]) / 2
    ten = np.array([np.cos(np.radians(10)), np.sin(np.radians(10))])
    expected = [both, ten, np.array([0, 1])]
    np.testing.assert_allclose(prototypes.vectors, expected, atol=1e-12)
    assert prototypes.support == [2, 1, 1]


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="10 of 10 images are positive; both needed"):
        PrototypeClassifier().fit(np.ones((10, 3)), np.ones(10, bool))
