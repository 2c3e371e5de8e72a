"""A compiled function of a network and images, which a contestant runs, or only compiles."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcovid.models.deep_ct_net import DeepCTNet
from jaxcovid.models.segmentation_net import SegmentationNet
from jaxcovid.runtime import sharding


@dataclass(frozen=True)
class Program:
    """A function of a state and images over a mesh, whose devices need not exist.

    Attributes:
      mesh: the devices.
      model: the network.
      jit: a network -> the jitted function: in training (state, batch) -> (next state, result),
        else (variables, images) -> result.
      initialise: () -> the state or the variables, replicated over the mesh.
      batch: images of a global batch.
      size: side of an image, px.
      trains: which of the two it is.
    """

    mesh: jax.sharding.Mesh
    model: DeepCTNet
    jit: Callable[[DeepCTNet], Any]
    initialise: Callable[[], Any]
    batch: int
    size: int
    trains: bool

    def lower(self, model: DeepCTNet) -> jax.stages.Lowered:
        """The function of a network, lowered for the shapes of its arguments."""
        replicated = sharding.replicated_sharding(self.mesh)
        rows = sharding.batch_sharding(self.mesh)
        state = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
            jax.eval_shape(self.initialise),
        )
        inputs = {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=rows)
            for name, (shape, dtype) in self._inputs().items()
        }
        platform = sharding.platform_of(self.mesh)
        platforms = ({"gpu": "cuda"}.get(platform, platform),)
        traced = self.jit(model).trace(state, self._arguments(inputs))
        return traced.lower(lowering_platforms=platforms)

    def whole(self) -> jax.stages.Lowered:
        """Lowered so that it takes the batch as a whole: XLA counts the body of a loop once."""
        return self.lower(self.model.clone(chunk_bytes=sys.maxsize))

    def start(self) -> tuple[Any, Any]:
        """The arguments of the first call: the state, and random inputs placed on the mesh."""
        random = np.random.default_rng(0)
        inputs = {
            name: random.normal(size=shape).astype(dtype)
            if name == "image"
            else random.integers(0, 2, shape).astype(dtype)
            for name, (shape, dtype) in self._inputs().items()
        }
        return self.initialise(), self._arguments(sharding.place_batch(inputs, self.mesh))

    def run(self, compiled: Any, state: Any, inputs: Any) -> tuple[Any, Any]:
        """Calls the compiled function once: the state of the next call, and the result."""
        result = compiled(state, inputs)
        return result if self.trains else (state, result)

    def _inputs(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape and dtype of each array of a batch, see `training.step.Batch`."""
        side = (self.batch, self.size, self.size)
        inputs = {"image": ((*side, 1), np.float32), "target": ((self.batch, 1), np.float32)}
        if isinstance(self.model, SegmentationNet):
            inputs["masks"] = ((*side, 2), np.uint8)
        return inputs

    def _arguments(self, batch: dict[str, Any]) -> Any:
        """What the function takes of a batch."""
        return batch if self.trains else batch["image"]


def jit_initial_variables(mesh: jax.sharding.Mesh, model: DeepCTNet, size: int) -> Any:
    """() -> the variables of a network for images [b, size, size, 1], replicated over the mesh."""

    def initialise() -> Any:
        return model.init(jax.random.key(0), jnp.zeros((1, size, size, 1)))

    return jax.jit(initialise, out_shardings=sharding.replicated_sharding(mesh))


def compile_timed(program: Program) -> tuple[jax.stages.Compiled, dict[str, float]]:
    """The compiled program, and the seconds `trace_s` and `compile_s` that it took."""
    start = time.perf_counter()
    lowered = program.lower(program.model)
    traced = time.perf_counter()
    compiled = lowered.compile()
    return compiled, {"trace_s": traced - start, "compile_s": time.perf_counter() - traced}
