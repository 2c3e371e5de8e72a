"""Asks a server from Python; needs nothing but the standard library.

from jaxcovid.serving.client import Client

client = Client("http://127.0.0.1:8000")
print(client.screen("scan.png")["cases"][0]["findings"])
"""

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcovid.runtime.loopback import LOOPBACK


class ServerError(Exception):
    """The server refused; the message is its own."""


@dataclass(frozen=True)
class Client:
    """A server.

    Attributes:
      address: as in "http://127.0.0.1:8000".
      token: that it asks for, if it does.
      timeout_s: seconds to wait for an answer.
    """

    address: str
    token: str = ""
    timeout_s: float = 300.0

    def networks(self) -> list[dict[str, Any]]:
        """The networks behind it."""
        return json.loads(self._ask("GET", "/api/networks"))

    def screen(
        self, file: str | Path | bytes, *, name: str = "", prevalence: float | None = None
    ) -> dict[str, Any]:
        """Screens a picture, a volume or a zip file of them; the server keeps nothing.

        Args:
          file: path or content.
          name: of a content; volumes are known by it (`.nii.gz`, `.npy`).
          prevalence: see `cases.view`.

        Returns:
          `cases`, each with `findings` of each network, and `problems`, files that cannot be used.

        Raises:
          ServerError: the server refuses; says why.
          OSError: the file cannot be read, or the server does not answer.
        """
        content = file if isinstance(file, bytes) else Path(file).read_bytes()
        if not name and not isinstance(file, bytes):
            name = Path(file).name
        options: dict[str, Any] = {"name": name}
        if prevalence is not None:
            options["prevalence"] = prevalence
        path = f"/api/screen?{urllib.parse.urlencode(options)}"
        return json.loads(self._ask("POST", path, content))

    def _ask(self, method: str, path: str, content: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/octet-stream"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(
            self.address.rstrip("/") + path, content, headers, method=method
        )
        try:
            with _open(request, self.timeout_s) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            try:
                detail = json.loads(error.read())["detail"]
            except (ValueError, KeyError, TypeError):
                detail = error.reason
            raise ServerError(f"{error.code}: {detail}") from error


def _open(request: urllib.request.Request, timeout_s: float) -> Any:
    """Asks; images for this machine go through no proxy that the environment names."""
    if urllib.parse.urlsplit(request.full_url).hostname in LOOPBACK:
        direct = urllib.request.ProxyHandler({})
        return urllib.request.build_opener(direct).open(request, timeout=timeout_s)
    return urllib.request.urlopen(request, timeout=timeout_s)
