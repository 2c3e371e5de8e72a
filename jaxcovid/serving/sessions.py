"""What an open page has: its files, its cases, and the work on them.

All of it lives in the event loop, so nothing is locked; decoding and networks work elsewhere. A
session is closed by its page, or when nothing was heard of it for a while; its files go with it.
"""

import asyncio
import json
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from absl import logging

from jaxcovid.data.image_error import ImageError
from jaxcovid.serving import case_report, decoding
from jaxcovid.serving.cases import PICTURE, SERIES, VOLUME, Case, CaseSummary, Entry, summarise
from jaxcovid.serving.decoding import Decoded
from jaxcovid.serving.decoding_pool import DecoderPool
from jaxcovid.serving.limits import LimitError, Limits
from jaxcovid.serving.served_networks import Networks

WAITING, DECODING, SCREENING, DONE, FAILED, LEFT_OUT = (
    "waiting",
    "decoding",
    "screening",
    "done",
    "failed",
    "left out",
)
_AT_ONCE = 4  # files of a session that are worked on at a time, so that others get their turn
_LONGEST_NAME = 200


@dataclass
class Upload:
    """A file that was sent.

    Attributes:
      number: by which it is told from others.
      name: as its sender calls it, shown and never opened.
      state: `WAITING` to `LEFT_OUT`.
      error: why it failed or was left out.
      case: number of the case that it is in; None before it is decoded, of zip files and failures.
    """

    number: int
    name: str
    state: str = WAITING
    error: str = ""
    case: int | None = None

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
      uploads: number of a file -> number of its case, of files that are in one.
      cases: in the order in which they came.
    """

    version: int
    files: dict[str, int]
    problems: list[Upload]
    uploads: dict[int, int]
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
      version: grows with every change.
      heard: when it was last asked for, in seconds of a monotonic clock.
    """

    key: str
    folder: Path
    uploads: list[Upload] = field(default_factory=list)
    cases: dict[int, Case] = field(default_factory=dict)
    bytes: int = 0
    version: int = 0
    heard: float = field(default_factory=time.monotonic)
    series: dict[str, Case] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    changes: asyncio.Event = field(default_factory=asyncio.Event)

    def changed(self) -> None:
        """Wakes all who wait for news."""
        self.version += 1
        self.changes.set()
        self.changes = asyncio.Event()

    async def news(self, after: int, wait_s: float) -> None:
        """Waits until the version is above `after`, at most so many seconds."""
        deadline = time.monotonic() + wait_s
        while self.version <= after and (left := deadline - time.monotonic()) > 0:
            try:
                await asyncio.wait_for(self.changes.wait(), left)
            except TimeoutError:
                return


class Sessions:
    """All open pages.

    Attributes:
      networks: that screen.
      limits: what is accepted.
    """

    def __init__(
        self,
        networks: Networks,
        decoders: DecoderPool,
        limits: Limits,
        folder: Path,
        *,
        keep: Path | None = None,
        log_names: bool = False,
    ) -> None:
        """Begins without any.

        Args:
          networks: that screen.
          decoders: that decode.
          limits: what is accepted.
          folder: for their files.
          keep: gets table and reports of each when it is closed; None keeps nothing.
          log_names: write names of files into the log, too.
        """
        self.networks, self.limits = networks, limits
        self._decoders, self._folder = decoders, folder
        self._keep, self._log_names = keep, log_names
        self._open: dict[str, Session] = {}

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def open(self) -> Session:
        """A new one.

        Raises:
          LimitError: too many are open.
        """
        if len(self._open) >= self.limits.sessions:
            raise LimitError(f"{len(self._open)} pages are open, as many as are accepted")
        key = secrets.token_urlsafe(24)
        folder = self._folder / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        self._open[key] = Session(key, folder)
        return self._open[key]

    def get(self, key: str) -> Session:
        """The session of a key.

        Raises:
          KeyError: there is none, or it was closed.
        """
        session = self._open[key]
        session.heard = time.monotonic()
        return session

    async def close(self, session: Session) -> None:
        """Ends its work and removes its files."""
        self._open.pop(session.key, None)
        for task in session.tasks:
            task.cancel()
        session.changed()
        await asyncio.gather(*session.tasks, return_exceptions=True)
        if self._keep and session.cases:
            cases = list(session.cases.values())
            try:
                await self.networks.run(case_report.keep, cases, self.networks, self._keep)
            except OSError:
                logging.exception("What a page had could not be kept")
        await asyncio.to_thread(shutil.rmtree, session.folder, True)

    async def close_idle(self) -> None:
        """Closes those that nobody has asked for."""
        limit = time.monotonic() - self.limits.idle_s
        for session in [each for each in self._open.values() if each.heard < limit]:
            await self.close(session)

    async def close_all(self) -> None:
        """Closes all."""
        for session in list(self._open.values()):
            await self.close(session)

    def reserve(self, session: Session, size: int) -> None:
        """Counts bytes before they are kept.

        Raises:
          LimitError: they are too many for the session or for all together.
        """
        total = sum(each.bytes for each in self._open.values()) + size
        if session.bytes + size > self.limits.session_bytes:
            raise LimitError(
                f"the files of this page would have more than {self.limits.session_bytes:,} bytes; "
                "open it again, or send fewer"
            )
        if total > self.limits.total_bytes or size > decoding.free_bytes(self._folder):
            raise LimitError("there is no room for more files now; try again later")
        session.bytes += size

    def new_upload(self, session: Session, name: str) -> Upload:
        """A file that is about to be sent.

        Raises:
          LimitError: there are too many.
        """
        if len(session.uploads) >= self.limits.session_files:
            raise LimitError(
                f"{len(session.uploads):,} files were sent, as many as are accepted at once; "
                "open the page again for more"
            )
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
        upload = Upload(len(session.uploads), shown[:_LONGEST_NAME] or "without a name")
        session.uploads.append(upload)
        session.changed()
        return upload

    def start(self, session: Session, upload: Upload, path: Path, *, packed: bool = False) -> None:
        """Works on a file that has arrived, or was packed in one."""
        task = asyncio.create_task(self._work(session, upload, path, packed))
        session.tasks.add(task)
        task.add_done_callback(session.tasks.discard)

    async def _work(self, session: Session, upload: Upload, path: Path, packed: bool) -> None:
        begun = time.monotonic()
        try:
            async with session.gate:
                upload.state = DECODING
                session.changed()
                if decoding.is_zip(path):
                    if packed:
                        raise ImageError("a zip file within a zip file; unpack it first")
                    await self._unpack(session, upload, path)
                else:
                    await self._screen(session, upload, path)
        except (ImageError, LimitError) as error:
            upload.state, upload.error = FAILED, str(error)
        except Exception as error:  # whatever a file does, the page goes on
            logging.exception("A file could not be screened")
            upload.state, upload.error = FAILED, f"it could not be screened: {error!r}"[:300]
        session.changed()
        line = {"event": "file", "state": upload.state, "s": round(time.monotonic() - begun, 3)}
        if self._log_names:
            line["name"] = upload.name
        logging.info("%s", json.dumps(line))

    async def _unpack(self, session: Session, upload: Upload, path: Path) -> None:
        entries = await self._decoders.run(
            decoding.unpack,
            path,
            path.with_name("unpacked"),
            most_files=self.limits.session_files - len(session.uploads),
            most_bytes=self.limits.session_bytes - session.bytes,
        )
        self.reserve(session, sum(file.stat().st_size for _, file in entries))
        for name, file in entries:
            self.start(session, self.new_upload(session, name), file, packed=True)
        upload.state = DONE

    async def _screen(self, session: Session, upload: Upload, path: Path) -> None:
        decoded = await self._decoders.run(decoding.decode, path, self.networks.sights, self.limits)
        if decoded.left_out:
            upload.state, upload.error = LEFT_OUT, decoded.left_out
            return
        self.reserve(session, sum(file.stat().st_size for file in path.parent.glob("gray_*")))
        case = _case_for(session, decoded, upload)
        entries = [
            Entry(len(case.entries) + i, upload.name, slice_)
            for i, slice_ in enumerate(decoded.slices)
        ]
        case.entries += entries
        case.notes |= set(decoded.notes)
        upload.state, upload.case = SCREENING, case.number
        session.changed()
        size = self.networks.batch_size
        for start in range(0, len(entries), size):
            await asyncio.gather(*map(self._answer, entries[start : start + size]))
            session.changed()
        upload.state = DONE

    async def _answer(self, entry: Entry) -> None:
        if not entry.slice.error:
            entry.answers = await self.networks.answer(entry.slice)

    def view(self, session: Session) -> SessionView:
        """What its page shows at first sight."""
        states = [upload.state for upload in session.uploads]
        return SessionView(
            version=session.version,
            files={state: states.count(state) for state in dict.fromkeys(states)},
            problems=[each for each in session.uploads if each.state in (FAILED, LEFT_OUT)],
            uploads={each.number: each.case for each in session.uploads if each.case is not None},
            cases=[summarise(case, self.networks.served) for case in session.cases.values()],
        )


def _case_for(session: Session, decoded: Decoded, upload: Upload) -> Case:
    """The case that a file belongs to: that of its series, or a new one."""
    if decoded.volume:
        kind = VOLUME
    elif decoded.series:
        kind = SERIES
        if known := session.series.get(f"{decoded.patient}\0{decoded.series}"):
            return known
    else:
        kind = PICTURE
    case = Case(len(session.cases), kind, upload.name, decoded.unit)
    session.cases[case.number] = case
    if kind == SERIES:
        session.series[f"{decoded.patient}\0{decoded.series}"] = case
    return case
