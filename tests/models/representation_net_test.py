"""Networks without labels: shapes, what teachers see, how their features are standardised."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcovid.models.backbones import BACKBONES, FOR_SCREENING_ALONE
from jaxcovid.models.build import make_model
from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.models.representation_net import (
    ContrastiveNet,
    DistillationNet,
    Standardizer,
    Teacher,
)

NARROW = {"growth_rate": 4, "depths": (1, 1, 1, 1)}
WIDE = DeepCTNet(growth_rate=8, depths=(1, 1, 1, 1))


def images(seed=0, shape=(4, 64, 64, 1)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_each_image_has_an_embedding_of_each_view():
    model = ContrastiveNet(width=16, **NARROW)
    variables = jax.jit(model.init)(jax.random.key(0), images()[:1])
    assert set(variables["params"]) == {"backbone", "projector"}
    views = images(1, (3, 2, 64, 64, 1))
    embed = jax.jit(functools.partial(model.apply, method="all_logits"))
    embeddings = embed(variables, views)["embeddings"]
    assert embeddings.shape == (3, 2, 16)
    alone = embed(variables, views[1:2, ::-1])["embeddings"]
    np.testing.assert_allclose(alone[0, ::-1], embeddings[1], atol=1e-5)
    features = jax.jit(model.apply)(variables, views[:, 0])
    maps = model.apply(variables, views[:, 0], method="features")
    np.testing.assert_allclose(features, maps.mean((1, 2)), atol=1e-5)


@pytest.mark.parametrize(("size", "targets"), [(64, ("average", "map")), (72, ("average",))])
def test_teachers_may_have_any_backbone_and_maps_agree_where_the_size_divides_by_32(size, targets):
    widths = {"densenet121": 1024, "densenet169": 1664, "resnet50": 2048}
    widths |= {"efficientnet_lite0": 1280, "vgg16": 512}
    assert set(widths) == {*BACKBONES} - {*FOR_SCREENING_ALONE}
    teachers = tuple(Teacher(name, DeepCTNet(backbone_name=name)) for name in widths)
    model = DistillationNet(teachers=teachers, **NARROW)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 1)))
    assert set(variables["params"]) == {"backbone", "projector"}
    kernels = {name: x["kernel"].shape[-1] for name, x in variables["params"]["projector"].items()}
    same = ("densenet121", "densenet169", "vgg16")  # as the student's, at any size
    assert kernels == {
        f"{name}_{target}": width
        for name, width in widths.items()
        for target in (("average", "map") if name in same else targets)
    }


def distilling(**options):
    """A distillation net of one teacher with its variables, which are drawn at random."""
    model = DistillationNet(teachers=(Teacher("one", WIDE, **options),), **NARROW)
    image = images()
    variables = jax.jit(model.init)(jax.random.key(0), image[:1])
    init = functools.partial(WIDE.init, method="features")
    frozen = jax.jit(init)(jax.random.key(1), image[:1])
    return model, {**variables, "frozen": {"one": frozen}}


def test_a_teacher_sees_the_image_in_its_own_units():
    image = images()
    for options, seen in (
        ({"scale": 0.5, "offset": 0.25}, 0.5 * image + 0.25),
        (
            {"scale": None},
            (image - image.mean((1, 2), keepdims=True)) / image.std((1, 2), keepdims=True),
        ),
    ):
        model, variables = distilling(**options)
        expected = WIDE.apply(variables["frozen"]["one"], seen, method="features")
        targets = model.apply(variables, image, method="all_logits")["teachers"]
        np.testing.assert_allclose(targets["one_map"], expected, atol=1e-4)
        np.testing.assert_allclose(targets["one_average"], expected.mean((1, 2)), atol=1e-4)


def test_no_gradient_reaches_a_teacher():
    model, variables = distilling()

    def loss(frozen):
        logits = model.apply({**variables, "frozen": frozen}, images(), method="all_logits")
        return sum(x.sum() for x in jax.tree.leaves(logits))

    assert not any(x.any() for x in jax.tree.leaves(jax.jit(jax.grad(loss))(variables["frozen"])))


def test_options_become_the_units_of_teachers():
    from configs import pretrain

    config = pretrain.get_config("distillation,debug").to_dict()
    summary = {"backbone": "densenet121", "growth_rate": 8, "depths": [2, 2, 2, 2]}
    teachers = {
        "a": {**summary, "mean": 127.0, "std": 128.0},
        "b": {**summary, "mean": 100.0, "std": 64.0},
        "c": {**summary, "mean": None, "std": None},
    }
    make = functools.partial(make_model, config, outputs=1, exclusive=False, teachers=teachers)
    a, b, c = make().teachers
    assert (a.scale, a.offset, c.scale) == (1, 0, None)
    # The gray value g is (g - 127) / 128 to the student and (g - 100) / 64 to this teacher.
    assert (b.scale, b.offset) == (2.0, 27 / 64)
    config["preprocessing"] |= {"mean": None, "std": None}
    with pytest.raises(ValueError, match=r"a of distillation.teachers saw .* less 127, over 128"):
        make()


def test_features_are_standardised_by_the_moments_of_the_batches_before():
    module, rng = Standardizer(), np.random.default_rng(0)
    batches = [rng.normal(3, (0.1, 1, 5), (8, 4, 4, 3)).astype(np.float32) for _ in range(4)]
    variables = jax.jit(functools.partial(module.init, train=False))(
        jax.random.key(0), {"a": batches[0]}
    )
    apply = jax.jit(functools.partial(module.apply, train=True, mutable="batch_stats"))
    for i, batch in enumerate(batches):
        done, variables = apply(variables, {"a": jnp.asarray(batch)})
        if not i:
            np.testing.assert_allclose(done["a"], batch, rtol=1e-5)  # there are no moments yet
            continue
        before = np.concatenate(batches[:i]).astype(np.float64)
        scale = np.sqrt(before.var((0, 1, 2)).mean())
        expected = (batch - before.mean((0, 1, 2))) / scale
        np.testing.assert_allclose(done["a"], expected, rtol=1e-3, atol=1e-4)
    again = module.apply(variables, {"a": jnp.concatenate(batches)}, train=False)["a"]
    np.testing.assert_allclose(again.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(again.var((0, 1, 2)).mean(), 1, rtol=1e-4)
