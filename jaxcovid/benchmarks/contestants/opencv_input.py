"""Nothing but the five steps in a loop, on one core, as a contestant.

python -m jaxcovid.benchmarks.contestants.opencv_input --source=COVID-CT/Images-processed
"""

from collections.abc import Iterator, Sequence

import numpy as np

from jaxcovid.benchmarks.contestants import encoded_images
from jaxcovid.benchmarks.contestants.encoded_images import five_steps


def batches(
    images: Sequence[bytes], *, batch: int, size: int, workers: int
) -> Iterator[np.ndarray]:
    """Batches of a plain loop; `workers` is ignored."""
    del workers
    random = np.random.default_rng(0)
    while True:
        chosen = random.integers(0, len(images), batch)
        yield np.stack([five_steps(images[i], random, size=size) for i in chosen])


if __name__ == "__main__":
    encoded_images.serve(batches, encoded_images.make_parser(__doc__).parse_args())
