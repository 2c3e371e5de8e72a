"""The networks behind the page: slices of all clients go through them together, in batches."""

import asyncio
import collections
import concurrent.futures
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxcovid.data.sight import Sight
from jaxcovid.inference.network import Network
from jaxcovid.inference.screening import decide, parse_threshold
from jaxcovid.metrics.involvement import Areas, measure_slice
from jaxcovid.serving.decoding import Pixels, Slice

_BATCH_PIXELS = 64_000_000  # as many as the largest picture has


@dataclass(frozen=True)
class Served:
    """A network and what a person reads of it.

    Attributes:
      name: of its folder.
      network: what answers.
      trained_on: name of the data set.
      step: of its checkpoint.
      scores: headline scores of its evaluations, as lines of text; empty if none is known.
      threshold: see `screening.screen`.
    """

    name: str
    network: Network
    trained_on: str
    step: int
    scores: tuple[str, ...] = ()
    threshold: str = "youden"

    @property
    def limit(self) -> float | None:
        """The probability from which an image is positive; None of a network for findings.

        Raises:
          ValueError: it has no such threshold.
        """
        if not self.network.task.screens:
            return None
        return parse_threshold(self.threshold, self.network.thresholds)

    def decide(self, probabilities: Sequence[float]) -> str:
        """The decision in words; empty without probabilities, and of a network for findings."""
        limit = self.limit
        if limit is None or not len(probabilities):
            return ""
        return decide(self.network.task, probabilities, limit)

    def suspicion(self, probabilities: Sequence[float]) -> float:
        """What ranks slices, see `Task.leading`."""
        return probabilities[self.network.task.leading(probabilities)]


@dataclass(frozen=True)
class Answer:
    """What a network says of a slice.

    Attributes:
      probabilities: calibrated, of each output.
      warning: why it should not be screened; empty if nothing is unusual.
      areas: of its masks; None of a network without a decoder.
      masks: file of the masks, packed bits of [h, w, 2]; None likewise.
    """

    probabilities: tuple[float, ...]
    warning: str
    areas: Areas | None = None
    masks: Path | None = None


class Networks:
    """Networks of one modality, whose slices wait in one queue.

    Attributes:
      served: the networks.
      sights: how they see images, each once.
    """

    def __init__(self, served: Sequence[Served]) -> None:
        """Prepares to screen.

        Args:
          served: at least one.

        Raises:
          ValueError: they are of several modalities, or several have the same name.
        """
        modalities = {each.network.modality for each in served}
        if len(modalities) > 1:
            raise ValueError(
                f"networks of {' and '.join(sorted(modalities))} cannot be compared on one image; "
                "serve them apart"
            )
        names = [each.name for each in served]
        if len(set(names)) < len(names):
            raise ValueError(f"several networks are called {', '.join(names)}; rename a folder")
        self.served = tuple(served)
        self.sights: tuple[Sight, ...] = tuple(
            dict.fromkeys(each.network.sight for each in self.served)
        )
        self.batch_size = max(each.network.batch_size for each in self.served)
        self._waiting: collections.deque[tuple[Slice, asyncio.Future[Any]]] = collections.deque()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "networks")
        self._task: asyncio.Task[None] | None = None

    def view(self, index: int, slice_: Slice) -> Pixels:
        """The pixels of a slice as a network sees them."""
        return slice_.views[self.sights.index(self.served[index].network.sight)]

    async def answer(self, slice_: Slice) -> tuple[Answer, ...]:
        """What each network says of a slice without an error."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((slice_, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._screen_waiting())
        return await future

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function returns that uses a network, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def heatmap(self, index: int, slice_: Slice, output: int = 0) -> np.ndarray:
        """The heatmap of a slice, see `Network.heatmaps`; it is made once.

        Called in the thread of the networks: there the files of a closed page are removed, too.
        """
        view = self.view(index, slice_)
        kept = view.file.with_name(f"heatmap_{index}_{output}_{view.start}.npy")
        if not kept.exists():
            (made,) = self.served[index].network.heatmaps([view.read()], output=output)
            np.save(kept, made)
        return np.load(kept)

    async def _screen_waiting(self) -> None:
        while self._waiting:
            batch = self._next_batch()
            answers = await self.run(self._screen, [slice_ for slice_, _ in batch])
            for (_, future), answer in zip(batch, answers, strict=True):
                if future.done():  # its session was closed
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _next_batch(self) -> list[tuple[Slice, asyncio.Future[Any]]]:
        """What goes through the networks next, few pictures if they are large."""
        batch: list[tuple[Slice, asyncio.Future[Any]]] = []
        pixels = 0
        while self._waiting and len(batch) < self.batch_size:
            slice_, future = self._waiting[0]
            pixels += math.prod(slice_.views[0].shape)
            if batch and pixels > _BATCH_PIXELS:
                break
            self._waiting.popleft()
            if not future.done():
                batch.append((slice_, future))
        return batch

    def _screen(self, slices: Sequence[Slice]) -> list[tuple[Answer, ...] | Exception]:
        """The answers of all networks for slices, or why there are none, in their thread."""
        try:
            of_networks = [self._screen_with(index, slices) for index in range(len(self.served))]
            return list(zip(*of_networks, strict=True))
        except Exception as error:
            if len(slices) < 2:
                return [error]
        # One of them cannot be screened: the others can.
        return [answer for each in slices for answer in self._screen([each])]

    def _screen_with(self, index: int, slices: Sequence[Slice]) -> list[Answer]:
        network = self.served[index].network
        views = [self.view(index, slice_) for slice_ in slices]
        grays = [view.read() for view in views]
        probabilities = network.probabilities(grays)
        if not np.isfinite(probabilities).all():
            raise ValueError(f"{self.served[index].name} answers with what is no number")
        warnings = network.warnings(grays, [slice_.colour for slice_ in slices])
        answers = [
            Answer(tuple(map(float, row)), warning)
            for row, warning in zip(probabilities, warnings, strict=True)
        ]
        if not network.segments:
            return answers
        masks = network.segment(grays)
        return [
            dataclasses.replace(answer, **_keep_masks(index, view, mask))
            for answer, view, mask in zip(answers, views, masks, strict=True)
        ]

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _keep_masks(index: int, view: Pixels, probabilities: np.ndarray) -> dict[str, Any]:
    """Writes masks beside the pixels that they are of; the fields `areas` and `masks`."""
    masks = probabilities >= 0.5
    file = view.file.with_name(f"masks_{index}_{view.start}")
    file.write_bytes(np.packbits(masks).tobytes())
    return {"areas": measure_slice(masks[..., 0], masks[..., 1]), "masks": file}


def read_masks(file: Path, shape: tuple[int, int]) -> np.ndarray:
    """The masks bool [h, w, 2] of a slice of that shape; see `Answer.masks`."""
    bits = np.fromfile(file, np.uint8)
    return np.unpackbits(bits, count=2 * shape[0] * shape[1]).reshape(*shape, 2).astype(bool)
