"""TensorFlow's SavedModel, for TensorFlow and TensorFlow Serving."""

import os
from pathlib import Path
from typing import Any

import jax

from jaxcovid.weights.export.manifest import Manifest
from jaxcovid.weights.export.program import Program

FOLDER = "model"


def write(program: Program, manifest: Manifest, folder: Path) -> None:
    """Writes `FOLDER`, with the signature `serving_default`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf
    from jax.experimental import jax2tf

    name = manifest.input["name"]
    _, argument = program.entry(name)
    module: Any = tf.Module()
    module.weights = tf.nest.map_structure(tf.Variable, dict(program.variables))

    def function(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        return program.with_variables(variables).entry(name)[0](images)

    shapes = [None, f"({', '.join(map(str, argument.shape))})"]
    converted = jax2tf.convert(function, polymorphic_shapes=shapes)
    shape = [side if isinstance(side, int) else None for side in argument.shape]
    module.screen = tf.function(
        lambda images: converted(module.weights, images),
        autograph=False,
        input_signature=[tf.TensorSpec(shape, argument.dtype, name=name)],
    )
    signatures = {"serving_default": module.screen}
    tf.saved_model.save(module, os.fspath(folder / FOLDER), signatures=signatures)
