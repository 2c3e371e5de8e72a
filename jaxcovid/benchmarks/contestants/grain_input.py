"""The input pipeline of this project as a contestant, with its checks of every file.

python -m jaxcovid.benchmarks.contestants.grain_input --source=COVID-CT/Images-processed
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from jaxcovid.benchmarks.contestants import encoded_images
from jaxcovid.data.image_cache import cache_images
from jaxcovid.data.pipeline import PREPROCESS_ON, Loading, train_batches
from jaxcovid.data.preprocessing import Preprocessing


def batches(
    images: Sequence[bytes],
    *,
    batch: int,
    size: int,
    workers: int,
    preprocess_on: str,
    cache: str,
) -> Iterator[Any]:
    """The training batches of this project, which the device may have yet to preprocess."""
    flags.FLAGS.mark_as_parsed()  # grain's worker processes read theirs
    source = [{"image": image, "id": str(i)} for i, image in enumerate(images)]
    sources = cache_images({"train": source}, cache=cache, folder=Path(), digest="")
    loading = Loading(preprocessing=Preprocessing(size=size), batch_size=batch, workers=workers)
    return train_batches(
        sources["train"], loading, target=_target, seed=0, preprocess_on=preprocess_on
    )


def _target(record: Any) -> np.ndarray:
    """Any: what is timed does not depend on it."""
    del record
    return np.zeros(1, np.float32)


if __name__ == "__main__":
    parser = encoded_images.make_parser(__doc__)
    parser.add_argument("--preprocess_on", choices=PREPROCESS_ON, default="host")
    parser.add_argument("--cache", choices=("none", "memory"), default="none")
    arguments = parser.parse_args()
    options = {"preprocess_on": arguments.preprocess_on, "cache": arguments.cache}
    encoded_images.serve(partial(batches, **options), arguments)
