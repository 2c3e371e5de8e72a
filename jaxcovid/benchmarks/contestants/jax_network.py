"""The train step and the forward pass of this project as a contestant; see `rounds`.

    python -m jaxcovid.benchmarks.contestants.jax_network train --batch=16

Runs with jax, flax, optax and numpy alone.
"""

from typing import Any

import jax
import numpy as np

from jaxcovid.benchmarks.contestants.program import (
    Program,
    initial_variables,
    parse_flags,
    random_batch,
    serve,
)
from jaxcovid.inference.forward import jit_forward
from jaxcovid.models.build import backbone_form
from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.training.compilation import jit_train_step
from jaxcovid.training.optimizer import make_optimizer, make_schedule
from jaxcovid.training.state import jit_init_state


def _network(dtype: str) -> DeepCTNet:
    model = DeepCTNet(dtype=dtype)
    return model.clone(form=backbone_form(model.platform))


def train_program(mesh: jax.sharding.Mesh, *, batch: int, size: int, dtype: str) -> Program:
    """The train step of `configs/default.py`, on random images."""
    model = _network(dtype)
    optimizer = make_optimizer(
        make_schedule(learning_rate=1e-5, schedule="constant", updates=1),
        weight_decay=0.0,
        head_lr_multiplier=1.0,
        accumulate_steps=1,
    )
    images = random_batch(mesh, batch=batch, size=size)
    state = jit_init_state(mesh, model=model, optimizer=optimizer, image_size=size, seed=0)()

    def lower(model: DeepCTNet) -> Any:
        step = jit_train_step(
            mesh,
            model=model,
            optimizer=optimizer,
            weights=np.ones((2, 1), np.float32),
            batch_norm="global",
        )
        return step.lower(state, images)

    def run(compiled: Any, state: Any) -> tuple[Any, Any]:
        return compiled(state, images)

    return Program(model, lower, run, state)


def infer_program(mesh: jax.sharding.Mesh, *, batch: int, size: int, dtype: str) -> Program:
    """The forward pass that evaluation and prediction use, on random images."""
    model = _network(dtype)
    image = random_batch(mesh, batch=batch, size=size)["image"]
    variables = initial_variables(mesh, model, image)

    def lower(model: DeepCTNet) -> Any:
        return jit_forward(mesh, model=model).lower(variables, image)

    def run(compiled: Any, variables: Any) -> tuple[Any, Any]:
        return variables, compiled(variables, image)

    return Program(model, lower, run, variables)


_PROGRAMS = {"train": train_program, "infer": infer_program}


def main() -> None:
    """Warms up and serves rounds."""
    arguments = parse_flags(__doc__, tuple(_PROGRAMS))
    serve(_PROGRAMS[arguments.mode], arguments, framework="jax")


if __name__ == "__main__":
    main()
