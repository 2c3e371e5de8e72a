"""NumPy archives (`np.savez`) of the arrays of a state dict."""

import zipfile

import numpy as np

from jaxcovid.weights.files.weight_file import MOST_BYTES, Content
from jaxcovid.weights.files.zip_archive import open_archive

_SUFFIX = ".npy"
_HEADER_BYTES = 2**14
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(data: bytes) -> Content:
    """The arrays of an archive, compressed or not.

    Raises:
      ValueError: it is damaged, holds something else than arrays of numbers, or unpacks to more
        than `MOST_BYTES`.
    """
    with open_archive(data, MOST_BYTES) as archive:
        return Content(
            {
                entry.filename.removesuffix(_SUFFIX): _read_array(archive, entry)
                for entry in archive.infolist()
                if entry.filename.endswith(_SUFFIX)
            }
        )


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """An array, whose size is compared with that of its entry before it is made."""
    with archive.open(entry) as file:
        try:
            version = np.lib.format.read_magic(file)
            read = _HEADERS[version]
            shape, fortran_order, dtype = read(file, max_header_size=_HEADER_BYTES)
        except Exception as error:  # damaged headers raise whatever their parser meets
            raise ValueError(f"{entry.filename:.80} is no readable array: {error}") from error
        if dtype.kind not in "fiub":
            raise ValueError(f"{entry.filename:.80} holds {dtype}, no numbers")
        content = file.read()
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")
