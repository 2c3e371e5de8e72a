"""Files that `torch.save` of PyTorch 0.2 to 1.5 wrote: pickles, and the storages behind them.

torchvision's published DenseNets are of this kind.
"""

import io
from typing import Any

from jaxcovid.weights.files.pickle_data import Call, PersistentId, read_pickle
from jaxcovid.weights.files.torch_tensors import content_of, storage_id
from jaxcovid.weights.files.weight_file import Content

_MAGIC = 0x1950A86A20F9469CFC6C
# The pickle of the magic number, as protocols 2 and later write it.
HEAD = b"\x8a\x0a" + _MAGIC.to_bytes(10, "little")
_VERSION = 1001
_COUNT_BYTES = 8  # in front of each storage: its number of elements


def is_torch_legacy(data: bytes) -> bool:
    """True if the file begins as PyTorch's do."""
    return HEAD in data[:16]


def read_torch_legacy(data: bytes) -> Content:
    """The arrays of a file, see `torch_tensors.content_of`.

    Raises:
      ValueError: it is damaged, or of another version.
    """
    file = io.BytesIO(data)
    magic, version, system = (read_pickle(file) for _ in range(3))
    if magic != _MAGIC or version != _VERSION:
        raise ValueError("it is of a version of PyTorch that is not read; save it anew")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its numbers are not little-endian; save it on an ordinary machine")
    value = read_pickle(file)
    item_sizes = _item_sizes(value)
    keys = read_pickle(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its list of storages is damaged")
    storages, at = {}, file.tell()
    for key in keys:
        start = at + _COUNT_BYTES
        count = int.from_bytes(data[at:start], "little")
        at = start + count * item_sizes.get(key, 0)
        if key not in item_sizes or at > len(data):
            raise ValueError(f"storage {key:.40} is not used, or ends behind the file's end")
        storages[key] = memoryview(data)[start:at]

    def storage(key: str) -> memoryview:
        if key not in storages:
            raise ValueError(f"it has no storage {key:.40}")
        return storages[key]

    return content_of(value, storage)


def _item_sizes(value: Any) -> dict[str, int]:
    """Bytes of an element of each storage that a pickled value refers to, by its key."""
    sizes = {}
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, PersistentId):
            if isinstance(value.value, tuple) and value.value[:1] == ("storage",):
                key, dtype, _ = storage_id(value)
                sizes[key] = dtype.itemsize
        elif isinstance(value, Call):
            waiting += [value.function, value.arguments, value.state, value.items]
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
    return sizes
