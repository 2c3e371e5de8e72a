"""An open page: its files and its cases. See `sessions` for the work on them."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jaxcovid.serving.cases import PICTURE, SERIES, VOLUME, Case, CaseSummary
from jaxcovid.serving.decoding import Decoded

WAITING, DECODING, SCREENING, DONE, FAILED, LEFT_OUT = (
    "waiting",
    "decoding",
    "screening",
    "done",
    "failed",
    "left out",
)
_COLLECT_S = 2e-4  # for each case
_AT_ONCE = 4  # files of a session that are worked on at a time, so that others get their turn


@dataclass
class Upload:
    """A file that was sent.

    Attributes:
      number: by which it is told from others.
      name: as its sender calls it, shown and never opened.
      state: `WAITING` to `LEFT_OUT`.
      error: why it failed or was left out.
    """

    number: int
    name: str
    state: str = WAITING
    error: str = ""

    @property
    def settled(self) -> bool:
        """True if nothing more will happen to it."""
        return self.state in (DONE, FAILED, LEFT_OUT)


@dataclass(frozen=True)
class SessionView:
    """What a page shows at first sight.

    Attributes:
      version: grows with every change.
      files: how many are in each state.
      problems: files that failed or were left out.
      cases: in the order in which they came.
    """

    version: int
    files: dict[str, int]
    problems: list[Upload]
    cases: list[CaseSummary]


@dataclass
class Session:
    """An open page.

    Attributes:
      key: whoever knows it sees the session.
      folder: with its files.
      uploads: files that were sent.
      cases: by number.
      bytes: that it keeps.
      kept: the bytes that it keeps of each file, by its number.
      version: grows with every change.
      heard: when it was last asked for, in seconds of a monotonic clock.
      requests: that are being answered, and may take their time.
      closed: nothing may be added any more.
    """

    key: str
    folder: Path
    uploads: list[Upload] = field(default_factory=list)
    cases: dict[int, Case] = field(default_factory=dict)
    bytes: int = 0
    kept: dict[int, int] = field(default_factory=dict)
    version: int = 0
    heard: float = field(default_factory=time.monotonic)
    requests: int = 0
    closed: bool = False
    series: dict[str, Case] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    changes: asyncio.Event = field(default_factory=asyncio.Event)

    def changed(self) -> None:
        """Wakes all who wait for news."""
        self.version += 1
        self.changes.set()
        self.changes = asyncio.Event()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Says that somebody is there, though a request takes its time."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1
            self.heard = time.monotonic()

    def is_idle(self, seconds: float) -> bool:
        """True if nothing was heard of it for so long."""
        return not self.requests and time.monotonic() - self.heard > seconds

    async def news(self, after: int, wait_s: float) -> None:
        """Waits until the version is above `after`, at most so many seconds."""
        deadline = time.monotonic() + wait_s
        with self.in_use():
            while (
                not self.closed
                and self.version <= after
                and (left := deadline - time.monotonic()) > 0
            ):
                try:
                    await asyncio.wait_for(self.changes.wait(), left)
                except TimeoutError:
                    return
                # What follows at once is told together: news of many cases take their time.
                await asyncio.sleep(min(_COLLECT_S * len(self.cases), left))

    async def settled(self) -> None:
        """Waits until nothing more will happen to its files, or it is closed."""
        with self.in_use():
            while not self.closed and not all(upload.settled for upload in self.uploads):
                await self.changes.wait()

    def keep(self, upload: Upload, size: int) -> None:
        """Counts bytes of a file."""
        self.bytes += size
        self.kept[upload.number] = self.kept.get(upload.number, 0) + size

    def give_back(self, upload: Upload) -> None:
        """Counts those of a file no more."""
        self.bytes -= self.kept.pop(upload.number, 0)

    def case_for(self, decoded: Decoded, upload: Upload) -> Case:
        """The case that a file belongs to: that of its series, or a new one."""
        series = f"{decoded.patient}\0{decoded.series}"
        if decoded.volume:
            kind = VOLUME
        elif decoded.series:
            kind = SERIES
            if known := self.series.get(series):
                return known
        else:
            kind = PICTURE
        case = Case(len(self.cases), kind, upload.name, decoded.unit)
        self.cases[case.number] = case
        if kind == SERIES:
            self.series[series] = case
        return case
