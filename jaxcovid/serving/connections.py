"""Connections of strangers, closed if they only take a place, and a server that says it is up."""

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

_WAIT_S = 20.0  # for a request, and for a client that reads nothing of its answer


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 with a limit of time for a request's head and for reading an answer.

    Uvicorn itself has one between two requests alone: a few hundred clients that send nothing, or a
    byte now and then, would keep all others out. Bodies have a limit of their own, see `receiving`.
    """

    _timer: asyncio.TimerHandle | None = None
    _unread = 0  # bytes of an answer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`: the client has to read before more is written."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`: the client has read."""
        super().resume_writing()
        self._watch()

    def on_response_complete(self) -> None:
        """See `H11Protocol`."""
        self._watch()
        super().on_response_complete()

    def _watch(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._unread = self.transport.get_write_buffer_size()
        self._timer = self.loop.call_later(_WAIT_S, self._check)

    def _check(self) -> None:
        unread = self.transport.get_write_buffer_size()
        answered = self.cycle is None or self.cycle.response_complete
        if unread and unread < self._unread:
            self._watch()  # it reads, if slowly
        elif not answered and not (unread and self._unread):
            self._watch()  # the answer is being made
        else:
            self.transport.abort()


class Server(uvicorn.Server):
    """Calls a function as soon as it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        """Prepares to serve.

        Args:
          config: of Uvicorn.
          ready: is called once.
        """
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()
