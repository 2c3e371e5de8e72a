"""The train step, traced once for all runs of a configuration.

To trace and lower the step takes a start longer than to load what was compiled from it. JAX's cache
keeps only the latter; here the former is kept beside it, as StableHLO (see `jax.export`). A first
run and every later one compile the same program, so that a resumed run stays bit for bit the same.
"""

import contextlib
import hashlib
import os
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from absl import logging
from jax import export
from jax.sharding import Mesh

import jaxcovid
from jaxcovid.runtime.compiler import compiler_options
from jaxcovid.runtime.files import write_atomically
from jaxcovid.runtime.sharding import batch_sharding, platform_of, replicated_sharding
from jaxcovid.training.step import devices_together, train_step

MAX_BYTES = 2**28  # of all kept programs together


def jit_train_step(mesh: Mesh, state_sharding: Any = None, **kwargs: Any) -> Any:
    """`train_step` of these arguments compiled over `mesh`, see `jit_over_mesh`.

    Raises:
      ValueError: see `step.devices_together`.
    """
    devices_together(kwargs["batch_norm"], mesh)
    return jit_over_mesh(mesh, partial(train_step, mesh=mesh, **kwargs), state_sharding)


def jit_over_mesh(mesh: Mesh, step: Any, state_sharding: Any = None) -> Any:
    """(state, batch) -> (state, metrics), compiled: state donated, rows of the batch sharded.

    Args:
      mesh: the devices.
      step: what is compiled.
      state_sharding: a `NamedSharding` for each array of the state; None replicates all.
    """
    replicated = replicated_sharding(mesh)
    state_sharding = state_sharding or replicated
    return jax.jit(
        step,
        in_shardings=(state_sharding, batch_sharding(mesh)),
        out_shardings=(state_sharding, replicated),
        donate_argnums=0,
        compiler_options=compiler_options(platform_of(mesh)),
    )


def compile_train_step(
    mesh: Mesh,
    state: Any,
    batch: Any,
    *,
    fingerprint: str,
    folder: str | Path | None,
    **kwargs: Any,
) -> Any:
    """`jit_train_step`, compiled.

    Args:
      mesh: the devices.
      state: a `TrainState` that lies where it should, or its shapes with shardings.
      batch: a global batch, or its shapes.
      fingerprint: everything that the step depends on beside the shapes and the code, such as the
        configuration: two steps that differ have two.
      folder: where programs are kept, up to `MAX_BYTES`; None keeps none.
      **kwargs: those of `step.train_step`.

    Returns:
      (state, batch) -> (state, metrics); the state is donated.
    """
    shardings = jax.tree.map(lambda x: x.sharding, state)
    if jax.process_count() > 1:  # an exported program knows the devices of one process
        return jit_train_step(mesh, shardings, **kwargs).lower(state, batch).compile()
    leaves, tree = jax.tree.flatten(state)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (leaves, batch))
    path = (
        Path(folder) / f"{_key(fingerprint, mesh, shardings, shapes)}.stablehlo" if folder else None
    )
    program = _read(path) if path else None
    if program is None:
        # A state has types of flax and optax, which jax.export cannot write; its leaves it can.
        def of_leaves(leaves: Any, batch: Any) -> Any:
            state, metrics = train_step(
                jax.tree.unflatten(tree, leaves), batch, mesh=mesh, **kwargs
            )
            return jax.tree.leaves(state), metrics

        of_leaves = jit_over_mesh(mesh, of_leaves, jax.tree.leaves(shardings))
        program = export_program(of_leaves, *shapes)
        if path:
            with contextlib.suppress(OSError):  # to do without the file is no error
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, program.serialize())
                _remove_oldest(path.parent)

    def step(state: Any, batch: Any) -> Any:
        leaves, metrics = program.call(jax.tree.leaves(state), batch)
        return jax.tree.unflatten(tree, leaves), metrics

    return jit_over_mesh(mesh, step, shardings).lower(state, batch).compile()


def export_program(function: Any, *shapes: Any, **options: Any) -> export.Exported:
    """A jitted function for arguments of some shapes, as a program that can be kept.

    JAX does not promise that kernels of our own, written for Triton, work with another version of
    it; a program is kept for one version alone.
    """
    kernels = export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")
    return export.export(function, disabled_checks=[kernels], **options)(*shapes)


def _key(fingerprint: str, mesh: Mesh, shardings: Any, shapes: Any) -> str:
    """A digest of everything that a program depends on: the code of this package above all."""
    package = Path(jaxcovid.__file__).parent
    parts = [
        *(path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py"))),
        *(metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")),
        str(jax.config.jax_enable_x64),
        str(jax.config.jax_default_matmul_precision),
        str((jax.default_backend(), mesh, shardings, shapes, fingerprint)),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _read(path: Path) -> Any:
    """The program of a file; None if there is none that can be read."""
    try:
        program = export.deserialize(bytearray(path.read_bytes()))
        with contextlib.suppress(OSError):  # a folder that can only be read serves as well
            os.utime(path)  # as many file systems note no time of access
        return program
    except FileNotFoundError:
        return None
    except Exception as error:  # the format's parser has no error of its own
        logging.warning("%s cannot be read (%s); the step is traced anew", path, error)
        return None


def _remove_oldest(folder: Path) -> None:
    """Removes what was used longest ago until the rest has at most `MAX_BYTES`.

    Other processes may do the same: what is gone is gone. One that is about to read a program that
    goes traces it anew.
    """
    programs = []
    for path in folder.glob("*.stablehlo*"):  # what a killed process left half written, too
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            programs.append((status.st_mtime, status.st_size, path))
    total = 0
    for _, size, path in sorted(programs, reverse=True):
        total += size
        if total > MAX_BYTES:
            path.unlink(missing_ok=True)
