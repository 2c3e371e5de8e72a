"""Loads networks, and serves them at an address until it is interrupted."""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from jaxcovid.runtime.files import read_json
from jaxcovid.runtime.loopback import LOOPBACK
from jaxcovid.serving.limits import Limits
from jaxcovid.serving.scratch import scratch

if TYPE_CHECKING:
    from jaxcovid.serving.served_networks import Networks, Served

TOKEN = "JAXCOVID_TOKEN"
_LEAST_TOKEN = 16  # characters
_NEEDED = ("fastapi", "uvicorn", "fastapi_offline")
_REQUESTS = 500  # answered at once; more are told to come back
_GOODBYE_S = 5
_EVERYWHERE = ("", "0.0.0.0", "::")  # all addresses of this machine


@dataclass(frozen=True)
class Place:
    """Where the page is.

    Attributes:
      host: address to listen on.
      port: TCP; 0 takes a free one.
      certificate: of TLS, or None.
      key: of the certificate, or None.
    """

    host: str
    port: int
    certificate: str | None = None
    key: str | None = None

    def token(self) -> str:
        """What every request must have; empty where only this machine is served.

        That of the environment, else a new one where others can reach the address.

        Raises:
          ValueError: that of the environment is too short.
        """
        given = os.environ.get(TOKEN, "")
        if given and len(given) < _LEAST_TOKEN:
            raise ValueError(
                f"{TOKEN} has {len(given)} characters; give {_LEAST_TOKEN} or more, such as of "
                "openssl rand -hex 16"
            )
        if given or self.host in LOOPBACK:
            return given
        return secrets.token_urlsafe(24)

    def listen(self) -> socket.socket:
        """Takes the address; who comes before the first answer waits for it.

        Raises:
          OSError: it is taken, or not of this machine.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family, backlog=_REQUESTS)
        except (OSError, OverflowError) as error:
            raise OSError(
                f"cannot listen at {self.host}, port {self.port} ({error}); give another --port"
            ) from error


def check_installed() -> None:
    """Raises a ValueError if a library that only the page needs is missing."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(f"the page needs {', '.join(missing)}: pip install 'jaxcovid[serve]'")


def load(folders: Sequence[Path], engine: str, threshold: str = "youden") -> "Networks":
    """Loads networks and shows each a first image, so that no user waits for a compiler.

    Args:
      folders: workdirs for the engine jax, for others folders of exported networks.
      engine: what computes; see `inference.engines`.
      threshold: see `inference.screening.screen`.

    Raises:
      ValueError: one of them cannot be served, or has no such threshold, or they cannot be served
        together.
    """
    from jaxcovid.serving.served_networks import Networks

    served = [_load(folder, engine) for folder in folders]
    networks = Networks([dataclasses.replace(each, threshold=threshold) for each in served])
    first = np.zeros((64, 64), np.uint8)
    for each in networks.served:
        _ = each.limit  # refuses an unknown threshold
        each.network.probabilities([first])
        if each.network.has_gradcam:
            each.network.heatmaps([first])
        if each.network.segments:
            each.network.segment([first])
    return networks


def _load(folder: Path, engine: str) -> "Served":
    from jaxcovid.inference.engines import ExportedNetwork
    from jaxcovid.inference.load import load_network
    from jaxcovid.serving.served_networks import Served

    network, name = load_network(folder, engine), folder.resolve().name
    if isinstance(network, ExportedNetwork):
        trained_on = network.manifest.dataset["name"]
    else:
        trained_on = network.run.dataset.name
    return Served(name, network, trained_on, network.step, _scores(folder, network.step))


def _scores(folder: Path, step: int) -> tuple[str, ...]:
    """What evaluations say of a checkpoint of the network in a folder, a line for each score."""
    root, lines = folder / "evaluation", []
    for path in sorted(root.rglob("metrics.json")):
        with contextlib.suppress(ValueError, OSError, KeyError, TypeError):
            metrics = read_json(path)
            others = "runs" in metrics or "classifier" in metrics  # of several, or of another head
            if others or metrics["run"]["step"] != step:
                continue
            place = path.parent.relative_to(root).as_posix()
            scores = metrics.get("screening", metrics)  # of a network that only segments
            found = [("AUC", scores.get("auc"))]
            found += [
                (f"Dice of the {name}", score["dice"])
                for name, score in metrics.get("segmentation", {}).get("scores", {}).items()
            ]
            lines += [
                f"{name} {score['value']:.3f} (95 % interval {score['low']:.3f} to "
                f"{score['high']:.3f}) on {place}, {metrics['n']} images"
                for name, score in found
                if score
            ]
    return tuple(lines)


def serve(
    networks: "Networks",
    place: Place,
    listening: socket.socket,
    *,
    limits: Limits,
    keep: Path | None = None,
    log_names: bool = False,
) -> None:
    """Serves until it is interrupted.

    Args:
      networks: that screen.
      place: where.
      listening: what its `listen` gave.
      limits: what is accepted.
      keep: gets table and reports of each page when it is closed; None keeps nothing.
      log_names: write names of files into the log, too.

    Raises:
      OSError: the certificate cannot be read.
    """
    import uvicorn

    from jaxcovid.serving import connections
    from jaxcovid.serving.app import make_app

    if keep:
        keep.mkdir(parents=True, exist_ok=True)
    token = place.token()
    os.environ.pop(TOKEN, None)  # the processes that decode need not know it
    with scratch() as folder:
        app = make_app(
            networks, limits=limits, folder=folder, token=token, keep=keep, log_names=log_names
        )
        config = uvicorn.Config(
            app,
            host=place.host,
            port=place.port,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            http=connections.ImpatientProtocol,
            ws="none",
            limit_concurrency=_REQUESTS,
            timeout_graceful_shutdown=_GOODBYE_S,
            ssl_certfile=place.certificate,
            ssl_keyfile=place.key,
        )
        config.load()  # refuses a bad certificate
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that what is below here ends too
        names = [each.name for each in networks.served]
        ready = functools.partial(_announce, place, listening.getsockname()[1], token, names)
        connections.Server(config, ready).run(sockets=[listening])


def _announce(place: Place, port: int, token: str, names: Sequence[str]) -> None:
    """Prints the address, token included, where the user and nobody else reads it."""
    scheme = "https" if place.certificate else "http"
    name = f"[{place.host}]" if ":" in place.host else place.host
    if place.host in _EVERYWHERE:
        name = socket.gethostname()  # which others can open
    secret = f"#token={token}" if token else ""
    print(f"The page is at {scheme}://{name}:{port}/{secret}", flush=True)
    if token and not place.certificate and place.host not in LOOPBACK:
        logging.warning(
            "Without --certificate images and the token travel where others can read them."
        )
    logging.info("%s", json.dumps({"event": "serving", "networks": [*names]}))
