"""Archives of arrays (`.npz`) that hold numbers and nothing else."""

import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcovid.runtime.files import write_atomically


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays by their names.

    Raises:
      OSError: the file cannot be written.
    """
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomically(path, content.getvalue())


def read_arrays(path: Path, names: Iterable[str], *, most_bytes: int) -> dict[str, np.ndarray]:
    """The arrays of some names.

    Args:
      path: of the file.
      names: of the arrays; others in the file are not read.
      most_bytes: of all arrays in the file, unpacked.

    Raises:
      Exception: the file is damaged, too large, or holds objects: each of its two formats has
        errors of its own.
    """
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > most_bytes:
        raise ValueError(f"{unpacked:,} bytes, at most {most_bytes:,} are accepted")
    with np.load(content, allow_pickle=False) as archive:  # objects could run code
        return {name: archive[name] for name in names}
