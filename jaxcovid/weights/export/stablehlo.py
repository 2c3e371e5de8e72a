"""StableHLO, as `jax.export` keeps it: any program with JAX runs it, on any device."""

from pathlib import Path

import jax
from jax import export

from jaxcovid.runtime.files import write_atomically
from jaxcovid.weights.export.manifest import Manifest
from jaxcovid.weights.export.program import Program

FILE = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def write(program: Program, manifest: Manifest, folder: Path) -> None:
    """Writes `FILE`."""
    function, argument = program.entry(manifest.input["name"])
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(argument)
    write_atomically(folder / FILE, bytes(exported.serialize()))
