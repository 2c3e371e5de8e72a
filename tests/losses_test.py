"""Losses beside NumPy and optax, and what the outputs should say of a record."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcovid.data import labels
from jaxcovid.training import losses

CLASSES = ("normal", "COVID-19", "other pneumonia")
FINDINGS = ("Edema", "Hernia", "Mass", "Pneumonia")


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(6, 3)).astype(np.float32)
    target = rng.integers(0, 2, (6, 3)).astype(np.float32)
    weights = rng.uniform(0.5, 2, (2, 3)).astype(np.float32)
    return logits, target, weights


def loss(logits, target, weights, *, exclusive=False):
    with jax.numpy_rank_promotion("allow"):
        return losses.cross_entropy(jnp.array(logits), target, weights, exclusive=exclusive)


def test_weighted_binary_cross_entropy_equals_numpy():
    logits, target, weights = arrays()
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = -(weights[1] * target * np.log(p) + weights[0] * (1 - target) * np.log(1 - p))
    assert np.isclose(loss(logits, target, weights), expected.mean(), rtol=1e-5)


def test_what_is_not_known_adds_no_loss_and_no_gradient():
    logits, target, weights = arrays()
    target[[0, 2, 5], [1, 0, 2]] = labels.IGNORED
    known = target >= 0
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = -(weights[1] * target * np.log(p) + weights[0] * (1 - target) * np.log(1 - p))
    assert np.isclose(loss(logits, target, weights), expected.sum(where=known) / 18, rtol=1e-5)
    gradient = jax.grad(loss)(jnp.array(logits), target, weights)
    np.testing.assert_array_equal(np.asarray(gradient) != 0, known)


def test_a_softmax_has_the_cross_entropy_of_optax():
    logits, _, _ = arrays()
    labels = np.array([0, 1, 2, 2, 1, 0])
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    one_hot = np.eye(3, dtype=np.float32)[labels]
    plain = np.ones((2, 3), np.float32)
    assert np.isclose(loss(logits, one_hot, plain, exclusive=True), expected.mean(), rtol=1e-5)
    weighted = np.float32([[9, 9, 9], [1, 2, 3]])
    expected = expected * weighted[1][labels]
    assert np.isclose(loss(logits, one_hot, weighted, exclusive=True), expected.mean(), rtol=1e-5)


def make(**options):
    defaults = {
        "outputs": "binary",
        "class_names": CLASSES,
        "finding_names": (),
        "positive_class": "COVID-19",
    }
    return labels.make_targets(**{**defaults, **options})


def make_findings(**options):
    options = {"findings": FINDINGS[::-1], **options}
    return make(outputs="findings", class_names=(), finding_names=FINDINGS, **options)


def test_targets_of_classes():
    three = make(outputs="three_way")
    assert three.names == ("COVID-19", "normal", "other pneumonia")
    for label, expected in enumerate(([0, 1, 0], [1, 0, 0], [0, 0, 1])):
        np.testing.assert_array_equal(three({"label": label}), expected)
    assert [make()({"label": label}).tolist() for label in range(3)] == [[0], [1], [0]]
    two = make(outputs="two_way", class_names=("no", "yes"), positive_class="yes")
    assert [two({"label": label}).tolist() for label in range(2)] == [[0, 1], [1, 0]]


def test_uncertain_findings_follow_the_policy_of_their_label():
    found = make_findings(uncertain_as_one=("Edema",), uncertain_ignored=("Mass",))
    uncertain, blank = dict.fromkeys(FINDINGS, -1), dict.fromkeys(FINDINGS, -2)
    assert found.names == ("Pneumonia", "Mass", "Hernia", "Edema")
    assert found({"findings": uncertain}).tolist() == [0, labels.IGNORED, 0, 1]
    assert found({"findings": blank}).tolist() == [0, 0, 0, 0]
    assert found({"findings": {**blank, "Mass": 1, "Edema": 0}}).tolist() == [0, 1, 0, 0]


def test_sides_and_balanced_weights():
    counts = {"normal": 6, "COVID-19": 2, "other pneumonia": 2}
    sides = labels.count_sides(make(), counts)
    assert sides.tolist() == [[8], [2]]
    weights = losses.class_weights(sides, kind="balanced")
    np.testing.assert_allclose(weights, [[10 / 16], [10 / 4]])
    assert (losses.class_weights(sides, kind="none") == 1).all()
    values = {name: {"1": 3, "0": 1, "-1": 5, "-2": 11} for name in FINDINGS}
    found = make_findings(uncertain_as_one=("Edema",), uncertain_ignored=("Mass",))
    assert labels.count_sides(found, values).tolist() == [[17, 12, 17, 12], [3, 3, 3, 8]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": "four"}, "outputs is 'four'; use one of binary"),
        ({"positive_class": "flu"}, "positive_class 'flu' is not a class"),
        ({"outputs": "two_way"}, "needs 2 classes, the data set has 3"),
        ({"outputs": "three_way", "class_names": ("COVID-19", "b")}, "needs 3 classes"),
        ({"outputs": "findings"}, "has classes"),
        ({"class_names": (), "finding_names": FINDINGS}, "use --config.outputs=findings"),
    ],
)
def test_outputs_that_do_not_fit_the_data_set(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"findings": ()}, "must name each output once"),
        ({"findings": ("Mass", "Mass")}, "must name each output once"),
        ({"findings": ("Mass", "Flu")}, "findings has Flu, which the data set does not tell of"),
        ({"uncertain_as_one": ("Flu",)}, r"uncertain\.ones has Flu"),
        ({"uncertain_as_one": ("Mass",), "uncertain_ignored": ("Mass",)}, "both have Mass"),
    ],
)
def test_findings_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        make_findings(**options)


def test_bad_class_weights():
    with pytest.raises(ValueError, match="both sides"):
        losses.class_weights(np.array([[0], [4]]), kind="balanced")
    with pytest.raises(ValueError, match="class_weights"):
        losses.class_weights(np.array([[2], [4]]), kind="heavy")
