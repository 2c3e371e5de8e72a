"""The reference's seeded weights, rebuilt without PyTorch and laid out for the Flax modules."""

from collections.abc import Iterator
from typing import Any

import numpy as np

DEPTHS = (6, 12, 24, 16)


def _norm(torch_name: str, path: tuple[str, ...], channels: int) -> Iterator[Any]:
    shape = (channels,)
    yield f"{torch_name}.weight", ("params", *path, "scale"), shape
    yield f"{torch_name}.bias", ("params", *path, "bias"), shape
    yield f"{torch_name}.running_mean", ("batch_stats", *path, "mean"), shape
    yield f"{torch_name}.running_var", ("batch_stats", *path, "var"), shape
    yield f"{torch_name}.num_batches_tracked", None, ()


def _conv(torch_name: str, path: tuple[str, ...], shape: tuple[int, ...]) -> Iterator[Any]:
    yield f"{torch_name}.weight", ("params", *path, "kernel"), shape


def state_dict(size: int) -> Iterator[tuple[str, tuple[str, ...] | None, tuple[int, ...]]]:
    """Yields (PyTorch name, Flax path, PyTorch shape) in the order of the state dict."""
    net = ("backbone",)
    yield from _conv("backbone.conv0", (*net, "stem_conv"), (64, 3, 7, 7))
    yield from _norm("backbone.norm0", (*net, "stem_norm"), 64)
    channels, transitions = 64, []
    for i, depth in enumerate(DEPTHS):
        for j in range(depth):
            layer = (*net, f"block{i + 1}", f"layer{j + 1}")
            name = f"backbone.blocks.{i}.{j}"
            yield from _norm(f"{name}.norm1", (*layer, "norm1"), channels)
            yield from _conv(f"{name}.conv1", (*layer, "conv1"), (128, channels, 1, 1))
            yield from _norm(f"{name}.norm2", (*layer, "norm2"), 128)
            yield from _conv(f"{name}.conv2", (*layer, "conv2"), (32, 128, 3, 3))
            channels += 32
        if i < 3:
            transitions.append(channels)
            channels //= 2
    for i, c in enumerate(transitions):
        path = (*net, f"transition{i + 1}")
        yield from _norm(f"backbone.transitions.{i}.0", (*path, "norm"), c)
        yield from _conv(f"backbone.transitions.{i}.2", (*path, "conv"), (c // 2, c, 1, 1))
    yield from _norm("backbone.norm5", (*net, "final_norm"), channels)
    for name, ours, cin, cout, k in (
        ("gap", "gap", channels, channels, 1),
        ("mid", "mid", channels, channels, 1),
        ("down1", "down1", channels, 1, 7),
        ("down2", "down2", 1, 1, 5),
        ("down3", "down3", 1, 1, 3),
        ("lat1", "lateral1", 1, 1, 7),
        ("lat2", "lateral2", 1, 1, 5),
        ("lat3", "lateral3", 1, 1, 3),
    ):
        path = ("pyramid_attention", ours)
        yield from _conv(f"attention.{name}.0", (*path, "conv"), (cout, cin, k, k))
        yield f"attention.{name}.0.bias", ("params", *path, "conv", "bias"), (cout,)
        yield from _norm(f"attention.{name}.1", (*path, "norm"), cout)
    yield from _norm("norm", ("norm",), channels)
    yield "head.weight", ("params", "classifier", "kernel"), (1, channels * (size // 32) ** 2)
    yield "head.bias", ("params", "classifier", "bias"), (1,)


def _draw(index: int, name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Entry `index` of the state dict, from a numpy stream of its own, in PyTorch's layout."""
    rng = np.random.default_rng([seed, index])
    if len(shape) >= 2:
        return rng.normal(size=shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith("weight"):
        return rng.uniform(0.8, 1.2, shape)
    return rng.normal(size=shape) * 0.05


def seeded_variables(size: int, seed: int = 0) -> dict[str, Any]:
    """Flax variables of Deep-CT-Net from one numpy stream per entry of the state dict."""
    variables: dict[str, Any] = {}
    for i, (name, path, shape) in enumerate(state_dict(size)):
        if path is None:
            continue
        value = _draw(i, name, shape, seed)
        if len(shape) == 4:
            value = value.transpose(2, 3, 1, 0)  # OIHW -> HWIO
        elif len(shape) == 2:
            value = value.T
        tree = variables
        for key in path[:-1]:
            tree = tree.setdefault(key, {})
        tree[path[-1]] = value.astype(np.float32)
    return variables


def load_seeded(net: Any, seed: int = 0) -> None:
    """Gives a PyTorch network the same weights."""
    import torch

    weights = {
        name: torch.from_numpy(_draw(i, name, tuple(value.shape), seed).astype(np.float32))
        for i, (name, value) in enumerate(net.state_dict().items())
        if not name.endswith("num_batches_tracked")
    }
    net.load_state_dict(weights, strict=False)


def write_golden(path: str, size: int = 64) -> None:
    """What the PyTorch network makes of a random input: features, attention and logits."""
    import torch

    from jaxcovid.benchmarks.contestants.torch_network import DeepCTNet

    net = DeepCTNet(size).eval()
    load_seeded(net)
    x = np.random.default_rng(7).normal(size=(2, 3, size, size)).astype(np.float32)
    with torch.no_grad():
        features = net.backbone(torch.from_numpy(x))
        found = {"features": features, "attention": net.attention(features)}
        found["logits"] = net(torch.from_numpy(x))
    np.savez_compressed(path, **{name: value.numpy() for name, value in found.items()})


if __name__ == "__main__":
    import sys

    write_golden(sys.argv[1])
