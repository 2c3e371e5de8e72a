"""Who may ask, and what a browser may do with the answer.

Without a token only this machine is served, under its own names, and no page of another site can
send anything (DNS rebinding, cross-site requests). With a token whoever knows it is served.
"""

import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from absl import logging

from jaxcovid.runtime.loopback import LOOPBACK

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_OPEN_PATHS = re.compile(r"/|/health|/docs|/(static|swagger)/[\w.-]+")  # nothing of anybody's
_STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Swagger UI sets styles of single elements and has pictures within its style sheet.
_OF_DOCS = _STRICT.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'").replace(
    "img-src 'self' blob:", "img-src 'self' data:"
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Access:
    """ASGI middleware: refuses strangers, sets headers, writes a line of log for each request."""

    def __init__(self, app: Any, *, token: str = "") -> None:
        """Wraps an application.

        Args:
          app: the application.
          token: that every request must have; empty serves this machine alone.
        """
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        begun, status = time.perf_counter(), 500

        async def send_with_headers(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                policy = _OF_DOCS if scope["path"] == "/docs" else _STRICT
                headers = {**_HEADERS, "content-security-policy": policy}
                message["headers"] = [
                    *message.get("headers", []),
                    *((name.encode(), value.encode()) for name, value in headers.items()),
                ]
            await send(message)

        try:
            if refusal := self._refusal(scope):
                await _refuse(send_with_headers, *refusal)
            else:
                await self._app(scope, receive, send_with_headers)
        finally:
            route = scope.get("route")  # its template: the path itself has keys of sessions
            line = {
                "event": "request",
                "method": scope["method"],
                "route": getattr(route, "path", "unknown"),
                "status": status,
                "ms": round(1000 * (time.perf_counter() - begun), 1),
            }
            logging.info("%s", json.dumps(line))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and message for a request that is not answered; None for one that is."""
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        host = headers.get("host", "")
        if self._token:
            given = headers.get("authorization", "").removeprefix("Bearer ")
            known = secrets.compare_digest(given.encode(), self._token.encode())
            if not known and not _OPEN_PATHS.fullmatch(scope["path"]):
                return (
                    401,
                    "the token is missing or wrong: open the address that the server prints",
                )
        elif _name_of(host) not in LOOPBACK:
            return 403, f"this server answers at {', '.join(LOOPBACK)} alone"
        if scope["method"] not in ("GET", "HEAD"):
            origin = headers.get("origin")
            if origin is not None and origin.partition("://")[2] != host:
                return 403, "a page of another site may not send anything"
            if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
                return 403, "a page of another site may not send anything"
        return None


def _name_of(host: str) -> str:
    """The name in a Host header, without the port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


async def _refuse(send: Send, status: int, message: str) -> None:
    body = json.dumps({"detail": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
