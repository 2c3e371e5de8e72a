"""Deep-CT-Net with the backbone in plain Flax as a contestant: what to be faster than.

    python -m jaxcovid.benchmarks.contestants.linen_network train --batch=16

The plain form of the network (`models.densenet`), autodiff and optax.adam: a train step as it is
usually written.
"""

from functools import partial
from typing import Any

import jax
import optax

from jaxcovid.benchmarks.contestants.program import Program, jit_initial_variables
from jaxcovid.benchmarks.contestants.serving import parse_flags, serve
from jaxcovid.models.deep_ct_net import DeepCTNet


def train_step(
    state: tuple[Any, Any],
    batch: dict[str, jax.Array],
    *,
    model: DeepCTNet,
    optimizer: optax.GradientTransformation,
) -> tuple[tuple[Any, Any], jax.Array]:
    """The next state (variables, and the state of the optimizer), and the loss."""
    variables, opt_state = state

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        logits, updates = model.apply(
            {**variables, "params": params}, batch["image"], train=True, mutable=["batch_stats"]
        )
        return optax.sigmoid_binary_cross_entropy(logits, batch["target"]).mean(), updates

    (loss, batch_stats), grads = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
    updates, opt_state = optimizer.update(grads, opt_state)
    params = optax.apply_updates(variables["params"], updates)
    return ({"params": params, **batch_stats}, opt_state), loss


def train_program(mesh: jax.sharding.Mesh, *, batch: int, size: int, dtype: str) -> Program:
    """The train step on random images."""
    model = DeepCTNet(dtype=dtype, form="plain")
    optimizer = optax.adam(1e-5)

    def initialise() -> tuple[Any, Any]:
        variables = jit_initial_variables(mesh, model, size)()
        return variables, optimizer.init(variables["params"])

    def jit(model: DeepCTNet) -> Any:
        return jax.jit(partial(train_step, model=model, optimizer=optimizer), donate_argnums=0)

    return Program(mesh, model, jit, initialise, batch, size, trains=True)


def main() -> None:
    """Warms up and serves rounds."""
    serve(train_program, parse_flags(__doc__, ("train",)), framework="linen")


if __name__ == "__main__":
    main()
