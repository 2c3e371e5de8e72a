"""Trains in float64 on one device and on eight: what differs there is no rounding.

python tests/double_precision.py             a narrow network at 64x64, 20 steps
python tests/double_precision.py --full      DenseNet-121 at 256x256, 10 steps; 6 minutes on 2 cores

Prints JSON: for eight devices, whole and in FSDP, how far losses (at most), gradients of the first
step and parameters (of their norm) are from those of one device.
"""
# ruff: noqa: E402

import json
import os
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

from jaxcovid.models import deep_ct_net
from jaxcovid.training import sharding
from jaxcovid.training.optimizer import make_optimizer
from jaxcovid.training.programs import compile_train_step
from jaxcovid.training.state import jit_init_state

deep_ct_net.DTYPES = (*deep_ct_net.DTYPES, "float64")


def train(model, *, devices, fsdp, size, steps):
    """Losses of all steps, gradients of the first and the last parameters, each a vector."""
    mesh = sharding.make_mesh(devices)
    optimizer = make_optimizer(
        optax.constant_schedule(1e-5), weight_decay=0.0, head_rate_factor=1.0, accumulate_steps=1
    )

    def batch(step):
        rng = np.random.default_rng(step)
        coarse = rng.normal(size=(8, size // 8, size // 8, 1)).repeat(8, 1).repeat(8, 2)
        return sharding.place_batch(
            {
                "image": coarse + 0.3 * rng.normal(size=(8, size, size, 1)),
                "target": rng.integers(0, 2, (8, 1)).astype(np.float64),
            },
            mesh,
        )

    state = jit_init_state(
        mesh, fsdp=fsdp, model=model, optimizer=optimizer, image_size=size, seed=0
    )()
    step_fn = compile_train_step(
        mesh,
        state,
        batch(0),
        identity="",
        folder=None,
        model=model,
        optimizer=optimizer,
        weights=np.ones((2, 1)),
        batch_norm="global",
    )
    losses, first = [], None
    for step in range(steps):
        state, numbers = step_fn(state, batch(step))
        losses.append(float(numbers["loss"]))
        if not step:  # Adam's first mean is a tenth of the gradients.
            first = 10 * np.asarray(jax.device_get(optax.tree.get(state.opt_state, "mu")))
    parameters, _ = ravel_pytree(jax.device_get(state.params))
    assert first.dtype == parameters.dtype == np.float64
    return np.array(losses), first, parameters


def main():
    full = "--full" in sys.argv
    narrow = {} if full else {"growth": 8, "depths": (2, 2, 2, 2)}
    model = deep_ct_net.DeepCTNet(dtype="float64", **narrow)
    work = {"size": 256, "steps": 10} if full else {"size": 64, "steps": 20}
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
