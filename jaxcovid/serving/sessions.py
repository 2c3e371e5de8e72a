"""What open pages have, and the work on it.

All of it lives in the event loop, so nothing is locked; decoding and networks work elsewhere. A
session is closed by its page, or when nothing was heard of it for a while; its files go with it.
"""

import asyncio
import dataclasses
import json
import secrets
import shutil
import time
from pathlib import Path

from absl import logging

from jaxcovid.data.image_error import ImageError
from jaxcovid.runtime.files import write_atomically
from jaxcovid.serving import case_report, decoding
from jaxcovid.serving.cases import Case, Entry, summarise
from jaxcovid.serving.decoding_pool import DecoderPool
from jaxcovid.serving.limits import MIB, LimitError, Limits
from jaxcovid.serving.served_networks import Networks
from jaxcovid.serving.session import (
    DECODING,
    DONE,
    FAILED,
    LEFT_OUT,
    SCREENING,
    Session,
    SessionView,
    Upload,
)

_LONGEST_NAME = 200
_LONGEST_ERROR = 500
_SPARE_BYTES = 256 * MIB  # of the disk, for others


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

    def is_open(self, key: str) -> bool:
        """False if there is no such session, or it was closed."""
        return key in self._open

    async def close(self, session: Session, *, keep: bool = True) -> None:
        """Ends its work, keeps what was asked for unless told not to, and removes its files."""
        if self._open.pop(session.key, None) is None:
            return  # another has closed it
        session.closed = True
        for task in session.tasks:
            task.cancel()
        session.changed()
        await asyncio.gather(*session.tasks, return_exceptions=True)
        if keep and self._keep and session.cases:
            try:
                await self._keep_results(session, self._keep)
            except Exception:  # the files go in any case
                logging.exception("What a page had could not be kept")
        # Where the networks work, behind what they still do with its files.
        closed = session.folder.with_name(f"{session.folder.name}-closed")
        await self.networks.run(session.folder.rename, closed)
        await asyncio.to_thread(shutil.rmtree, closed, True)

    async def _keep_results(self, session: Session, folder: Path) -> None:
        """Writes a table of all cases and a report of each; others get their turn between them."""
        name, cases = case_report.new_name(), list(session.cases.values())
        table = case_report.table(cases, self.networks.served).encode()
        await asyncio.to_thread(write_atomically, folder / f"{name}.csv", table)
        for case in filter(Case.answered, cases):
            report = await self.networks.run(case_report.pdf, case, self.networks, None)
            path = folder / f"{name}_{case.number}.pdf"
            await asyncio.to_thread(write_atomically, path, report)

    async def close_idle(self) -> None:
        """Closes those that nobody has asked for."""
        for session in list(self._open.values()):
            if session.is_idle(self.limits.idle_s):
                await self.close(session)

    async def close_all(self) -> None:
        """Closes all."""
        for session in list(self._open.values()):
            await self.close(session)

    def reserve(self, session: Session, upload: Upload, size: int) -> None:
        """Counts bytes of a file before they are kept.

        Raises:
          LimitError: they are too many for the session or for all together.
        """
        if session.bytes + size > self.limits.session_bytes:
            raise LimitError(
                f"the files of this page would have more than {self.limits.session_bytes:,} bytes; "
                "open it again, or send fewer"
            )
        if size > self._room():
            raise LimitError("there is no room for more files now; try again later")
        session.keep(upload, size)

    def _room(self) -> int:
        """Bytes that may be kept in addition to those of all sessions."""
        left = self.limits.total_bytes - sum(each.bytes for each in self._open.values())
        return max(0, min(left, decoding.free_bytes(self._folder) - _SPARE_BYTES))

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
        shown = _printable(name)[-_LONGEST_NAME:] or "without a name"
        upload = Upload(len(session.uploads), shown)
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
            fail(upload, str(error))
        except Exception as error:  # whatever a file does, the page goes on
            logging.exception("A file could not be screened")
            fail(upload, _unexpected(error))
        if upload.state in (FAILED, LEFT_OUT):
            shutil.rmtree(path.parent, ignore_errors=True)
            session.give_back(upload)
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
            most_bytes=min(self.limits.session_bytes - session.bytes, self._room()),
        )
        sizes = [file.stat().st_size for _, file in entries]
        self.reserve(session, upload, sum(sizes))
        path.unlink()
        session.give_back(upload)  # it is gone, and each of its files counts by itself
        for (name, file), size in zip(entries, sizes, strict=True):
            each = self.new_upload(session, name)
            session.keep(each, size)
            self.start(session, each, file, packed=True)
        upload.state = DONE

    async def _screen(self, session: Session, upload: Upload, path: Path) -> None:
        decoded = await self._decoders.run(decoding.decode, path, self.networks.sights, self.limits)
        if decoded.left_out:
            upload.state, upload.error = LEFT_OUT, decoded.left_out
            return
        written = [*path.parent.glob("gray_*")]
        self.reserve(session, upload, sum(file.stat().st_size for file in written))
        case = session.case_for(decoded, upload)
        entries = [
            Entry(len(case.entries) + i, upload.number, upload.name, slice_)
            for i, slice_ in enumerate(decoded.slices)
        ]
        case.entries += entries
        case.notes |= set(decoded.notes)
        upload.state = SCREENING
        session.changed()
        size = self.networks.batch_size
        for start in range(0, len(entries), size):
            await asyncio.gather(*map(self._answer, entries[start : start + size]))
            session.changed()
        if not decoded.volume and entries[0].slice.error:
            raise ImageError(entries[0].slice.error)
        upload.state = DONE

    async def _answer(self, entry: Entry) -> None:
        if entry.slice.error:
            return
        try:
            entry.answers = await self.networks.answer(entry.slice)
        except Exception as error:  # the other slices go on
            logging.exception("A slice could not be screened")
            entry.slice = dataclasses.replace(entry.slice, error=_unexpected(error))

    def view(self, session: Session) -> SessionView:
        """What its page shows at first sight."""
        states = [upload.state for upload in session.uploads]
        return SessionView(
            version=session.version,
            files={state: states.count(state) for state in dict.fromkeys(states)},
            problems=[each for each in session.uploads if each.state in (FAILED, LEFT_OUT)],
            cases=[summarise(case, self.networks.served) for case in session.cases.values()],
        )


def fail(upload: Upload, error: str) -> None:
    """Says why a file cannot be used."""
    upload.state, upload.error = FAILED, _printable(error)[:_LONGEST_ERROR]


def _unexpected(error: Exception) -> str:
    return f"it could not be screened: {error!r}"[:_LONGEST_ERROR]


def _printable(text: str) -> str:
    """A text of a stranger without what controls a terminal, or turns what follows around."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
