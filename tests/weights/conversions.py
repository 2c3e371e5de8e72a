"""Converts files of source networks and runs the result, for several tests."""

import flax
import jax
import numpy as np

from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.weights.files.read import read_weights
from jaxcovid.weights.recognise import recognise
from jaxcovid.weights.sources.densenet import NETWORKS


def convert(path):
    file = read_weights(path)
    return recognise(file).carry_out(file)


def files_of(folder):
    """The files of weights that `source_networks` wrote."""
    others = (".json", ".npz")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and (path.suffix not in others or path.name == "arrays.npz")
    )


def forward(weights, images):
    """Features, and the logits of each head after one more pass of the attention, if any."""
    shape = NETWORKS[weights.backbone]
    network = DeepCTNet(
        outputs=max(len(weights.outputs), 1),
        attention=weights.attention or "none",
        head="gap",
        growth_rate=shape.growth_rate,
        depths=shape.depths,
    )
    apply = jax.jit(network.apply, static_argnames="method")
    variables = flax.traverse_util.unflatten_dict(dict(weights.variables), sep="/")
    features = attended = apply(variables, images, method="features")
    logits = []
    for output in range(len(weights.outputs)):
        attended = apply(variables, attended, method="attend")
        logits.append(apply(variables, attended, images, method="classify")[:, output])
    return features, np.stack(logits, 1) if logits else None


def differences(weights, run):
    """Largest differences of features and logits to those of the source's own code."""
    features, logits = forward(weights, run["images"])
    between = {"features": float(np.abs(features - run["features"]).max())}
    if "logits" in run:
        between["logits"] = float(np.abs(logits - run["logits"]).max())
    return between
