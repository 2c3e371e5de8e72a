"""The input pipeline of this project as a contestant, with its checks of every file.

python -m jaxcovid.benchmarks.contestants.grain_input --source=COVID-CT/Images-processed
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from jaxcovid.benchmarks.contestants import encoded_images
from jaxcovid.data.pipeline import Loading, train_batches
from jaxcovid.data.preprocessing import Preprocessing


def batches(images: Sequence[bytes], *, batch: int, size: int, workers: int) -> Iterator[Any]:
    """The training batches of this project."""
    flags.FLAGS.mark_as_parsed()  # grain's worker processes read theirs
    source = [{"image": image, "id": str(i)} for i, image in enumerate(images)]
    loading = Loading(preprocessing=Preprocessing(size=size), batch_size=batch, workers=workers)
    return train_batches(source, loading, target=_target, seed=0)


def _target(record: Any) -> np.ndarray:
    """Any: what is timed does not depend on it."""
    del record
    return np.zeros(1, np.float32)


if __name__ == "__main__":
    encoded_images.serve(batches, __doc__)
