"""ONNX, for ONNX Runtime, OpenVINO and others."""

import json
from pathlib import Path

from jaxcovid.runtime.files import write_atomically
from jaxcovid.weights.export.manifest import Manifest
from jaxcovid.weights.export.program import Program
from jaxcovid.weights.jaxpr_to_onnx.convert import convert

FILE = "model.onnx"


def write(program: Program, manifest: Manifest, folder: Path) -> None:
    """Writes `FILE`, the manifest in its metadata."""
    name = manifest.input["name"]
    function, argument = program.entry(name)
    metadata = {key: json.dumps(value) for key, value in manifest.to_json().items()}
    model = convert(function, name, argument, metadata=metadata)
    write_atomically(folder / FILE, model.SerializeToString())
