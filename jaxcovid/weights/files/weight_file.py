"""What a file of weights holds, whatever its format."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MOST_BYTES = 2**30  # of a file; DenseNet-121 with the moments of Adam has 2**27


@dataclass(frozen=True)
class Content:
    """The arrays of a file.

    Attributes:
      arrays: by the names that they have in the file; views of its bytes where the format allows.
      class_name: of a pickled PyTorch module, such as `torchvision.models.densenet.DenseNet`; empty
        if the file holds arrays alone.
      settings: JSON beside the file that describes the network, by the name of its file.
    """

    arrays: Mapping[str, np.ndarray]
    class_name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def check_size(arrays_bytes: int, file_bytes: int) -> None:
    """Refuses arrays that are larger than the uncompressed file which is said to hold them.

    Raises:
      ValueError: they are.
    """
    if arrays_bytes > file_bytes:
        raise ValueError(
            f"its arrays are said to have {arrays_bytes:,} bytes, and the file has {file_bytes:,}"
        )
