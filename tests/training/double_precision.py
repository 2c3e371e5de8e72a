"""Trains in float64 on one device and on eight: what differs there is no rounding.

python tests/training/double_precision.py             a narrow network at 64x64, 5 steps
python tests/training/double_precision.py --full      DenseNet-121 at 256x256, 10 steps; 6 minutes

Prints JSON: for eight devices, whole and in FSDP, how far losses (at most), gradients of the first
step and parameters (of their norm) are from those of one device.
"""
# ruff: noqa: E402

import json
import os
import pathlib
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_ENABLE_X64"] = "1"

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

jnp.float32 = jnp.float64  # all that the networks compute and keep

sys.path[:0] = [str(pathlib.Path(__file__).parents[i]) for i in range(3)]  # runs, jaxcovid

from step_test import PLAIN, each_step

from jaxcovid.models import deep_ct_net
from jaxcovid.training.optimizer import make_optimizer

deep_ct_net.DTYPES = (*deep_ct_net.DTYPES, "float64")


def batch(seed, size):
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(8, size // 8, size // 8, 1)).repeat(8, 1).repeat(8, 2)
    return {
        "image": coarse + 0.3 * rng.normal(size=(8, size, size, 1)),
        "target": rng.integers(0, 2, (8, 1)).astype(np.float64),
    }


def train(model, *, devices, fsdp, size, steps):
    """Losses of all steps, gradients of the first and the last parameters, each a vector."""
    optimizer = make_optimizer(optax.constant_schedule(1e-5), **PLAIN)
    batches = [batch(step, size) for step in range(steps)]
    losses, first = [], None
    for numbers, state in each_step(
        devices, batches, model=model, size=size, opt=optimizer, fsdp=fsdp
    ):
        losses.append(float(numbers["loss"]))
        if first is None:  # Adam's first mean is a tenth of the gradients.
            first = 10 * np.asarray(jax.device_get(optax.tree.get(state.opt_state, "mu")))
    parameters, _ = ravel_pytree(jax.device_get(state.params))
    assert first.dtype == parameters.dtype == np.float64
    return np.array(losses), first, parameters


def main():
    full = "--full" in sys.argv
    narrow = {} if full else {"growth_rate": 8, "depths": (2, 2, 2, 2)}
    model = deep_ct_net.DeepCTNet(dtype="float64", **narrow)
    work = {"size": 256, "steps": 10} if full else {"size": 64, "steps": 5}
    losses, first, last = train(model, devices=1, fsdp=1, **work)
    for fsdp in (1,) if full else (1, 8):
        eight = train(model, devices=8, fsdp=fsdp, **work)
        away = {
            "fsdp": fsdp,
            "losses": np.abs(losses - eight[0]).max(),
            "gradients": np.linalg.norm(first - eight[1]) / np.linalg.norm(first),
            "parameters": np.linalg.norm(last - eight[2]) / np.linalg.norm(last),
        }
        print(json.dumps(away), flush=True)


if __name__ == "__main__":
    main()
