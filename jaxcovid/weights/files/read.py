"""Reads a file of weights, whose format is known by its content."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

from jaxcovid.runtime.files import read_json
from jaxcovid.weights.files import hdf5, npz, safetensors_file, torch_legacy, torch_zip
from jaxcovid.weights.files.weight_file import MOST_BYTES, Content
from jaxcovid.weights.files.zip_archive import open_archive

FORMATS = "PyTorch (.pth, .pt), safetensors, Keras (.h5, .keras) and NumPy (.npz)"
# Beside a file: jfhealthcare/Chexpert's and the Hugging Face hub's description of the network.
_SETTINGS = ("cfg.json", "config.json")


@dataclass(frozen=True)
class WeightFile:
    """A file of weights.

    Attributes:
      name: of the file.
      sha256: of its bytes.
      content: its arrays and what describes them.
    """

    name: str
    sha256: str
    content: Content


def read_weights(path: Path) -> WeightFile:
    """Reads a file; nothing in it is executed.

    Raises:
      ValueError: it is too large, damaged or of another format; says which.
      OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; at most {MOST_BYTES:,} are accepted")
    data = path.read_bytes()
    try:
        content = parse(data)
        beside = {name: path.with_name(name) for name in _SETTINGS}
        settings = {name: read_json(file) for name, file in beside.items() if file.is_file()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    content = dataclasses.replace(content, settings=settings)
    return WeightFile(path.name, hashlib.sha256(data).hexdigest(), content)


def parse(data: bytes) -> Content:
    """The content of a file's bytes.

    Raises:
      ValueError: they are damaged or of another format.
    """
    if data[: len(hdf5.HEAD)] == hdf5.HEAD:
        return hdf5.read_hdf5(data)
    if torch_legacy.is_torch_legacy(data):
        return torch_legacy.read_torch_legacy(data)
    if safetensors_file.is_safetensors(data):
        return safetensors_file.read_safetensors(data)
    if data[:2] == b"PK":
        with open_archive(data, MOST_BYTES) as archive:
            names = archive.namelist()
        if hdf5.WEIGHTS in names:
            return hdf5.read_keras_archive(data)
        if any(name.endswith("/data.pkl") for name in names):
            return torch_zip.read_torch_zip(data)
        if any(name.endswith(".npy") for name in names):
            return npz.read_npz(data)
    raise ValueError(f"it is none of the formats that are read: {FORMATS}")
