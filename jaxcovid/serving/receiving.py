"""How a file arrives: the body of a request, piece by piece, within the limits."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from jaxcovid.serving import decoding
from jaxcovid.serving.limits import LimitError
from jaxcovid.serving.session import Session, Upload
from jaxcovid.serving.sessions import Sessions, fail

CLOSED = "this page was closed; open it again"
_STALLED_S = 30.0  # without a byte of an upload
_Result = TypeVar("_Result")


async def receive(sessions: Sessions, session: Session, name: str, request: Request) -> Upload:
    """Writes the body of a request to a file and starts to work on it.

    Raises:
      HTTPException: the session was closed meanwhile, or the file stopped arriving.
      LimitError: it is more than is accepted.
    """
    upload = sessions.new_upload(session, name)
    folder = session.folder / str(upload.number)
    path = folder / decoding.file_name(upload.name)
    try:
        folder.mkdir()
        with session.in_use(), path.open("wb", buffering=0) as file:
            await _write(sessions, session, upload, request, file)
    except BaseException as error:
        reason = error.detail if isinstance(error, HTTPException) else str(error)
        fail(upload, reason or "it did not arrive")
        path.unlink(missing_ok=True)
        session.give_back(upload)
        session.changed()
        if isinstance(error, ClientDisconnect):
            raise HTTPException(408, "the file stopped arriving") from error
        raise
    sessions.start(session, upload, path)
    return upload


async def _write(
    sessions: Sessions, session: Session, upload: Upload, request: Request, file: Any
) -> None:
    limit, size = sessions.limits.upload_bytes, 0
    stream = request.stream()
    while True:
        try:
            piece = await asyncio.wait_for(anext(stream, None), _STALLED_S)
        except TimeoutError as error:
            raise HTTPException(408, "the file stopped arriving") from error
        if session.closed:
            raise HTTPException(404, CLOSED)
        if piece is None:
            return
        size += len(piece)
        if size > limit:
            raise LimitError(f"a file of more than {limit:,} bytes")
        sessions.reserve(session, upload, len(piece))
        file.write(piece)


async def while_asked(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """What the work returns; it is cancelled when its client has left.

    Args:
      request: whose body has been read.
      work: for its client alone.

    Raises:
      HTTPException: nobody reads it.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_leave(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HTTPException(408, "the client has left")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _leave(request: Request) -> None:
    """Waits until the client of a request leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
