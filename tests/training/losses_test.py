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
    target[[0, 2, 5], [1, 0, 2]] = labels.UNKNOWN
    known = target >= 0
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = -(weights[1] * target * np.log(p) + weights[0] * (1 - target) * np.log(1 - p))
    assert np.isclose(loss(logits, target, weights), expected.sum(where=known) / 18, rtol=1e-5)
    gradient = jax.grad(loss)(jnp.array(logits), target, weights)
    np.testing.assert_array_equal(np.asarray(gradient) != 0, known)


def test_the_deviation_of_an_anomaly_has_a_margin_that_of_a_normal_image_none():
    scores = jnp.array([[0.5, -2.0], [7.0, 4.0], [-1.0, 3.0]])
    target = jnp.array([[0, 0], [1, 1], [1, labels.UNKNOWN]])
    expected = (0.5 + 2.0 + 0.0 + 1.0 + 6.0 + 0.0) / 6
    same = jnp.ones((2, 2))
    assert np.isclose(losses.deviation_loss(scores, target, same, margin=5.0), expected)
    assert np.isclose(losses.deviation_loss(scores, target, same, margin=3.0), 6.5 / 6)
    weights = jnp.array([[1.0, 1.0], [3.0, 3.0]])  # of negative, then of positive images
    loss = losses.deviation_loss(scores, target, weights, margin=5.0)
    assert np.isclose(loss, (0.5 + 2.0 + 3 * 7.0) / 6)


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
        "kind": "binary",
        "class_names": CLASSES,
        "finding_names": (),
        "positive_class": "COVID-19",
    }
    return labels.make_task(**{**defaults, **options})


def make_findings(**options):
    options = {"findings": FINDINGS[::-1], **options}
    return make(kind="multilabel", class_names=(), finding_names=FINDINGS, **options)


def test_targets_of_classes():
    three = make(kind="one_vs_rest")
    assert three.outputs == ("COVID-19", "normal", "other pneumonia")
    encode = three.encoder(CLASSES)
    for label, expected in enumerate(([0, 1, 0], [1, 0, 0], [0, 0, 1])):
        np.testing.assert_array_equal(encode({"label": label}), expected)
    for binary in (make(), three.only_positive()):
        encode = binary.encoder(CLASSES)
        assert [encode({"label": label}).tolist() for label in range(3)] == [[0], [1], [0]]
    encode = make(kind="multiclass", class_names=("no", "yes"), positive_class="yes").encoder(
        ("no", "yes")
    )
    assert [encode({"label": label}).tolist() for label in range(2)] == [[0, 1], [1, 0]]


def test_what_follows_from_the_kind_of_a_task():
    assert [make(kind=kind).exclusive for kind in ("binary", "one_vs_rest")] == [False, False]
    assert make(kind="multiclass", class_names=CLASSES[:2]).exclusive
    assert make().screens
    assert not make_findings().screens
    assert make(kind="one_vs_rest").positive_class == "COVID-19"


def test_uncertain_findings_follow_the_policy_of_their_label():
    task = make_findings(uncertain_positive=("Edema",), uncertain_unknown=("Mass",))
    encode = task.encoder(())
    uncertain, blank = dict.fromkeys(FINDINGS, -1), dict.fromkeys(FINDINGS, -2)
    assert task.outputs == ("Pneumonia", "Mass", "Hernia", "Edema")
    assert encode({"findings": uncertain}).tolist() == [0, labels.UNKNOWN, 0, 1]
    assert encode({"findings": blank}).tolist() == [0, 0, 0, 0]
    assert encode({"findings": {**blank, "Mass": 1, "Edema": 0}}).tolist() == [0, 1, 0, 0]


def test_class_counts_and_balanced_weights():
    images = {"normal": 6, "COVID-19": 2, "other pneumonia": 2}
    counts = make().class_counts(images)
    assert counts.tolist() == [[8], [2]]
    weights = losses.class_weights(counts, kind="balanced")
    np.testing.assert_allclose(weights, [[10 / 16], [10 / 4]])
    assert (losses.class_weights(counts, kind="none") == 1).all()
    values = {name: {"1": 3, "0": 1, "-1": 5, "-2": 11} for name in FINDINGS}
    task = make_findings(uncertain_positive=("Edema",), uncertain_unknown=("Mass",))
    assert task.class_counts(values).tolist() == [[17, 12, 17, 12], [3, 3, 3, 8]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "four"}, "task is 'four'; use one of binary"),
        ({"positive_class": "flu"}, "positive_class 'flu' is not a class"),
        ({"kind": "multiclass"}, "needs 2 classes, the data set has 3"),
        ({"kind": "one_vs_rest", "class_names": ("COVID-19", "b")}, "needs 3 classes"),
        ({"kind": "multilabel"}, "has classes"),
        ({"class_names": (), "finding_names": FINDINGS}, "use --config.task=multilabel"),
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
        ({"findings": ("Mass", "Flu")}, "findings has Flu, which the data set does not label"),
        ({"uncertain_positive": ("Flu",)}, r"uncertain\.ones has Flu"),
        ({"uncertain_positive": ("Mass",), "uncertain_unknown": ("Mass",)}, "both have Mass"),
    ],
)
def test_findings_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        make_findings(**options)


def test_bad_class_weights():
    with pytest.raises(ValueError, match="positive and negative images"):
        losses.class_weights(np.array([[0], [4]]), kind="balanced")
    with pytest.raises(ValueError, match="class_weights"):
        losses.class_weights(np.array([[2], [4]]), kind="heavy")
