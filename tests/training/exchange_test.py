"""Means of gradients over devices and slices, in the order of the backward pass."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxcovid.benchmarks.compiled import hlo, traffic
from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.runtime import sharding
from jaxcovid.training import exchange

CALLS = [(), ("stem",), ("block",), ("block", "a"), ("block", "b"), ("head",)]  # of a forward pass
KERNELS = {  # 1, 4, 5 and 0.5 MB
    "stem": {"kernel": (100, 2500)},
    "block": {"a": {"kernel": (400, 2500)}, "b": {"kernel": (500, 2500)}},
    "head": {"kernel": (50, 2500), "bias": (3,)},
}


def gradients_of(devices):
    """Of each device its own, all in one array by a first axis."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda shape: rng.normal(size=(devices, *shape)).astype(np.float32),
        KERNELS,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def jit_mean(mesh, group, mean):
    """The means of gradients [devices, ...] and of one number of each device."""
    grouped = sharding.in_groups(mesh, (mesh.shape["slice"], -1, group), exchange.AXES)

    def of_device(gradients, number):
        return mean(jax.tree.map(lambda x: x[0], gradients), number.sum())

    rows = P(exchange.AXES)
    return jax.jit(
        jax.shard_map(of_device, mesh=grouped, in_specs=rows, out_specs=P(), check_vma=False)
    )


def by_bucket(gradients, number):
    return exchange.mean_gradients(gradients, number, CALLS)


def at_once(gradients, number):
    return jax.lax.pmean((gradients, number), exchange.AXES)


@pytest.mark.parametrize(
    ("slices", "group"), [(1, 8), (1, 2), (2, 4), (2, 2), (4, 1), (8, 1)], ids=str
)
def test_buckets_have_the_means_of_all_devices(slices, group):
    mesh, numbers = sharding.make_mesh(8, slices=slices), np.arange(8.0, dtype=np.float32)
    found = jit_mean(mesh, group, by_bucket)(gradients_of(8), numbers)
    wanted = jit_mean(mesh, group, at_once)(gradients_of(8), numbers)
    assert float(found[1]) == 3.5
    for one, other in zip(*map(jax.tree.leaves, (found[0], wanted[0])), strict=True):
        if slices == 1:  # to the bit
            np.testing.assert_array_equal(one, other)
        else:
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_between_slices_goes_a_share_of_the_bytes():
    mesh = sharding.make_mesh(8, slices=2)
    program = jit_mean(mesh, 4, by_bucket).lower(gradients_of(8), np.zeros(8, np.float32))
    measured = traffic.measure_traffic(hlo.parse_module(program.compile().as_text()))
    groups = {c.kind: c.group for c in measured.collectives}
    within, across = (0, 1, 2, 3), (0, 4)
    assert groups == {"reduce-scatter": within, "all-reduce": across, "all-gather": within}
    sizes = {kind: sum(c.size for c in measured.collectives if c.kind == kind) for kind in groups}
    whole = 4 * sum(gradient[0].size for gradient in jax.tree.leaves(gradients_of(8)))
    assert sizes["all-gather"] == pytest.approx(whole, rel=0.01)
    assert sizes["all-reduce"] == sizes["reduce-scatter"] == sizes["all-gather"] / 4


def test_buckets_go_from_the_head_to_the_stem():
    gradients = jax.tree.map(lambda x: x[0], gradients_of(1))
    buckets = exchange.make_buckets(gradients, CALLS)
    assert [[path[-2] for path in bucket] for bucket in buckets] == [
        ["head", "head", "b"],  # the head is too small for a bucket of its own
        ["a", "stem"],
    ]


def test_a_module_has_the_place_of_its_first_call():
    gradients = {name: {"kernel": np.zeros(2**20, np.float32)} for name in "ab"}
    calls = [("a",), ("b",), ("a",)]  # the backward pass finishes a last
    buckets = exchange.make_buckets(gradients, calls)
    assert [list(bucket) for bucket in buckets] == [[("b", "kernel")], [("a", "kernel")]]


def test_calls_are_noted_in_their_order():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            late, early = nn.Dense(1, name="late"), nn.Dense(2, name="early")
            return late(early(x))

        def double(self, x):
            return 2 * x

    network, x = Network(), jnp.ones((1, 3))
    with exchange.noted_calls() as calls:
        network.double(network.init(jax.random.key(0), x)["params"]["late"]["bias"])
    assert calls == [(), ("early",), ("late",)]


def test_the_networks_gradients_are_reduced_from_the_classifier_to_the_stem():
    model = DeepCTNet()
    with exchange.noted_calls() as calls:
        variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 256, 256, 1)))
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variables["params"])
    buckets = exchange.make_buckets(params, calls)
    modules = list(dict.fromkeys(path[:-1] for bucket in buckets for path in bucket))
    layers = [("backbone", "block3", f"layer{i}", "conv2") for i in (24, 2, 1)]
    wanted = [("classifier",), *layers, ("backbone", "stem_conv")]
    assert [module for module in modules if module in wanted] == wanted
    assert modules[-1] == wanted[-1]
    sizes = [sum(gradient.nbytes for gradient in bucket.values()) for bucket in buckets]
    assert len(sizes) == 9
    assert min(sizes[:-1]) >= exchange.BUCKET_BYTES
    assert sum(sizes) == sum(x.nbytes for x in jax.tree.leaves(params))
