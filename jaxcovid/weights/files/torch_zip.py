"""Files that `torch.save` of PyTorch 1.6 and newer writes: a zip archive, read without PyTorch."""

import functools
import io
import zipfile

from jaxcovid.weights.files.pickle_data import read_pickle
from jaxcovid.weights.files.torch_tensors import content_of
from jaxcovid.weights.files.weight_file import Content
from jaxcovid.weights.files.zip_archive import open_archive

_PICKLE = "/data.pkl"


def read_torch_zip(data: bytes) -> Content:
    """The arrays of a file, see `torch_tensors.content_of`.

    Raises:
      ValueError: it is damaged, or not written by PyTorch.
    """
    # PyTorch never compresses, and entries that share bytes would be more than the file.
    with open_archive(data, most_bytes=len(data)) as archive:
        return _read(archive)


def _read(archive: zipfile.ZipFile) -> Content:
    names = archive.namelist()
    pickles = [name for name in names if name.endswith(_PICKLE)]
    if len(pickles) != 1:
        raise ValueError(f"it has {len(pickles)} entries named data.pkl instead of one")
    folder = pickles[0].removesuffix(_PICKLE)
    order = f"{folder}/byteorder"
    if order in names and archive.read(order) != b"little":
        raise ValueError("its numbers are not little-endian; save it on an ordinary machine")

    @functools.cache
    def storage(key: str) -> memoryview:
        name = f"{folder}/data/{key}"
        if name not in names:
            raise ValueError(f"it has no storage {key:.40}")
        return memoryview(archive.read(name))

    return content_of(read_pickle(io.BytesIO(archive.read(pickles[0]))), storage)
