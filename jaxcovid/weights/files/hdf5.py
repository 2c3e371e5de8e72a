"""Keras' files: HDF5 (`.h5`), and the archive with one in it (`.keras`).

They are read in Python: HDF5's own library, which h5py uses, crashes on some damaged files.
"""

import io
import math
from typing import Any

import numpy as np
from pyfive.high_level import Dataset, File

from jaxcovid.weights.files.weight_file import MOST_BYTES, Content, check_size
from jaxcovid.weights.files.zip_archive import open_archive

HEAD = b"\x89HDF\r\n\x1a\n"
WEIGHTS = "model.weights.h5"  # in a .keras archive
_MOST_NODES = 100_000
_CONTIGUOUS = 1  # a layout class of the HDF5 specification


def read_keras_archive(data: bytes) -> Content:
    """The arrays of a `.keras` archive.

    Raises:
      ValueError: it is damaged, or unpacks to more than `MOST_BYTES`.
    """
    with open_archive(data, MOST_BYTES) as archive:
        weights = archive.read(WEIGHTS)
    return read_hdf5(weights)


def read_hdf5(data: bytes) -> Content:
    """The arrays of an HDF5 file by their paths in it, such as `conv1_conv/conv1_conv/kernel`.

    Raises:
      ValueError: it is damaged, links to other files, or its arrays are compressed.
    """
    datasets: dict[str, Any] = {}
    visited = 0

    def collect(path: str, node: Any) -> str | None:
        nonlocal visited
        visited += 1
        if isinstance(node, Dataset):
            datasets[path] = node
        return None if visited < _MOST_NODES else "too many"

    try:
        with File(io.BytesIO(data)) as file:
            if file.visititems(collect, noindex=True):
                raise ValueError(f"more than {_MOST_NODES:,} groups and arrays are not read")
            return Content(_read_datasets(datasets, len(data)))
    except Exception as error:  # the library raises whatever it meets
        raise ValueError(f"it is no HDF5 file that can be read: {error}") from error


def _read_datasets(datasets: dict[str, Any], size: int) -> dict[str, np.ndarray]:
    """Reads arrays of numbers, which must lie uncompressed in the file; others are left out."""
    numbers = {
        path: dataset
        for path, dataset in datasets.items()
        if isinstance(dataset.dtype, np.dtype) and dataset.dtype.kind in "fiub"
    }
    for path, dataset in numbers.items():
        if dataset.id.layout_class != _CONTIGUOUS or dataset.id.data_offset >= size:
            raise ValueError(f"{path:.80} is not stored in one piece, as Keras does; save it anew")
    check_size(
        sum(math.prod(dataset.shape) * dataset.dtype.itemsize for dataset in numbers.values()), size
    )
    return {path: dataset[()] for path, dataset in numbers.items()}
