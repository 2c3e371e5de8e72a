"""Files of Hugging Face's safetensors, read by their own library."""

import ml_dtypes
import numpy as np
import safetensors

from jaxcovid.weights.files.weight_file import Content

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def is_safetensors(data: bytes) -> bool:
    """True if the file begins with the size of a header and the header's JSON."""
    return data[8:10] == b'{"' and int.from_bytes(data[:8], "little") <= len(data) - 8


def read_safetensors(data: bytes) -> Content:
    """The arrays of a file.

    Raises:
      ValueError: it is damaged, or has numbers of a kind that is not read.
    """
    try:
        tensors = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"it is no valid safetensors file: {error}") from error
    arrays = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in _DTYPES:
            raise ValueError(f"{name:.80} has numbers of type {tensor['dtype']}, which is not read")
        dtype = np.dtype(_DTYPES[tensor["dtype"]])
        arrays[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    return Content(arrays)
