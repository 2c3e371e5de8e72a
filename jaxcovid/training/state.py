"""What a training run carries from step to step, and nothing else."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxcovid.runtime.sharding import replicated_sharding, shard_state


@flax.struct.dataclass
class TrainState:
    """Everything that a step needs to go on bit for bit; a pytree of arrays.

    Attributes:
      step: steps taken so far, int32 scalar.
      params: trainable parameters, float32.
      batch_stats: running mean and variance of every batch normalisation, float32.
      opt_state: the optimizer's state (Adam's moments, counts, accumulated gradients).
      frozen: variables of the parts that are not trained, by name; a step passes them on as they
        are. They lie in the workdir once, not in every checkpoint.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    frozen: Any = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """What the network computes with: `params`, `batch_stats` and, if there are, `frozen`."""
        variables = {"params": self.params, "batch_stats": self.batch_stats}
        return {**variables, "frozen": self.frozen} if self.frozen else variables

    @property
    def items(self) -> dict[str, Any]:
        """What a checkpoint keeps, see `workdir.checkpoints`."""
        weights = {"params": self.params, "batch_stats": self.batch_stats}
        return {"weights": weights, "optimizer": self.opt_state}

    def restored(self, step: int, items: Mapping[str, Any]) -> "TrainState":
        """A state like this one (arrays, or their shapes) with the items of a checkpoint."""
        count = jax.device_put(np.int32(step), self.step.sharding)
        return self.replace(step=count, **items["weights"], opt_state=items["optimizer"])


def init_state(
    *, model: nn.Module, optimizer: optax.GradientTransformation, image_size: int, seed: int
) -> TrainState:
    """A new state for images [*, image_size, image_size, 1], all randomness from `seed`."""
    # A batch of one image: shapes of parameters do not depend on it.
    image = jnp.zeros((1, image_size, image_size, 1), jnp.float32)
    variables = model.init(jax.random.key(seed), image)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),  # none of a head alone
        opt_state=optimizer.init(params),
    )


def jit_init_state(mesh: Mesh, *, fsdp: int = 1, **kwargs: Any) -> Any:
    """`init_state` of these arguments as one program: () -> state, spread as `shard_state` says.

    Compiled, nothing but the parameters is left to compute; op by op it takes half a minute.
    """
    initialise = partial(init_state, **kwargs)
    shapes = jax.eval_shape(initialise)
    whole = jax.tree.map(lambda _: replicated_sharding(mesh), shapes)
    shardings = whole.replace(
        params=shard_state(shapes.params, mesh, fsdp),
        opt_state=shard_state(shapes.opt_state, mesh, fsdp),
    )
    return jax.jit(initialise, out_shardings=shardings)
