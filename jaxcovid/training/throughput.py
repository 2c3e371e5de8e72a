"""How fast a training is, without its validations and saves."""

import contextlib
import time
from collections.abc import Iterator


class StepClock:
    """Images/s and data stall between two lines of the log."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._images, self._stalled, self._paused = 0, 0.0, 0.0

    @contextlib.contextmanager
    def stalled(self) -> Iterator[None]:
        """Counts a wait for input."""
        start = time.perf_counter()
        yield
        self._stalled += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves something that is not a train step out of the rate."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def count(self, images: int) -> None:
        """Counts images of a finished step."""
        self._images += images

    def lap(self) -> dict[str, float]:
        """The rates since the last lap: `images_per_s` and `data_stall_share` of the time."""
        seconds = time.perf_counter() - self._start - self._paused
        rates = {
            "images_per_s": self._images / seconds,
            "data_stall_share": self._stalled / seconds,
        }
        self.__init__()
        return rates
