"""The train step and the forward pass of this project as a contestant; see `rounds`.

    python -m jaxcovid.benchmarks.contestants.jax_network train --batch=16

Runs with jax, flax, optax and numpy alone.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxcovid.benchmarks.contestants.program import Program, jit_initial_variables
from jaxcovid.benchmarks.contestants.serving import parse_flags, serve
from jaxcovid.inference.forward import jit_forward
from jaxcovid.models.build import MASKED
from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.models.segmentation_net import SegmentationNet
from jaxcovid.training.compilation import jit_train_step
from jaxcovid.training.optimizer import make_optimizer, make_schedule
from jaxcovid.training.state import jit_init_state


def train_program(
    mesh: jax.sharding.Mesh,
    *,
    batch: int,
    size: int,
    dtype: str,
    network: Callable[..., DeepCTNet],
    batch_norm: str,
) -> Program:
    """The train step of `configs/default.py`, on random images."""
    model = network(dtype=dtype)
    optimizer = make_optimizer(
        make_schedule(learning_rate=1e-5, schedule="constant", updates=1),
        weight_decay=0.0,
        head_lr_multiplier=1.0,
        accumulate_steps=1,
    )

    def jit(model: DeepCTNet) -> Any:
        return jit_train_step(
            mesh,
            model=model,
            optimizer=optimizer,
            weights=np.ones((2, 1), np.float32),
            batch_norm=batch_norm,
        )

    initialise = jit_init_state(mesh, model=model, optimizer=optimizer, image_size=size, seed=0)
    return Program(mesh, model, jit, initialise, batch, size, trains=True)


def infer_program(
    mesh: jax.sharding.Mesh, *, batch: int, size: int, dtype: str, network: Callable[..., DeepCTNet]
) -> Program:
    """The forward pass that evaluation and prediction use, on random images."""
    model = network(dtype=dtype)
    initialise = jit_initial_variables(mesh, model, size)

    def jit(model: DeepCTNet) -> Any:
        return jit_forward(mesh, model=model)

    return Program(mesh, model, jit, initialise, batch, size, trains=False)


def _network(backbone: str, objective: str) -> Callable[..., DeepCTNet]:
    """Makes the network of a backbone and an objective, given its dtype."""
    if objective in MASKED:
        return partial(SegmentationNet, joint=objective == "joint", backbone_name=backbone)
    return partial(DeepCTNet, backbone_name=backbone)


_PROGRAMS = {"train": train_program, "infer": infer_program}


def main() -> None:
    """Warms up and serves rounds."""
    arguments = parse_flags(__doc__, tuple(_PROGRAMS))
    network = _network(arguments.backbone, arguments.objective)
    make = alone = partial(_PROGRAMS[arguments.mode], network=network)
    if arguments.mode == "train":
        make = partial(make, batch_norm=arguments.batch_norm)
        alone = partial(alone, batch_norm="per_device")  # it has no group
    serve(make, arguments, framework="jax", alone=alone)


if __name__ == "__main__":
    main()
