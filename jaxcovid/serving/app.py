"""The web application: what can be asked, and where the answers come from.

    page      GET  /                                   and /static/..., /docs
    networks  GET  /api/networks
    sessions  POST /api/sessions                       an open page; DELETE closes it
              GET  /api/sessions/KEY                   its files and cases, or news of them
    files     POST /api/sessions/KEY/files?name=NAME   the bytes of one file as the body
    cases     GET  /api/sessions/KEY/cases/N           and /table.csv, /report.pdf
    slices    GET  /api/sessions/KEY/cases/N/slices/N/image.png, heatmap.png, contours.png, ...
    at once   POST /api/screen?name=NAME               one file in, its cases out, nothing kept

Who may ask is said in `access`; what can be asked of cases and slices in `case_routes`.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import importlib.resources
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import numpy as np
from absl import logging
from fastapi import FastAPI, Query, Request, Security
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles

from jaxcovid import __version__
from jaxcovid.data.image_error import ImageError
from jaxcovid.runtime.files import is_disk_full
from jaxcovid.serving import case_routes, cases, decoding
from jaxcovid.serving.access import Access
from jaxcovid.serving.case_routes import Prevalence, session_of
from jaxcovid.serving.cases import CaseView
from jaxcovid.serving.decoding_pool import DecoderPool
from jaxcovid.serving.limits import LimitError, Limits
from jaxcovid.serving.receiving import CLOSED, receive, while_asked
from jaxcovid.serving.served_networks import Networks
from jaxcovid.serving.session import SessionView, Upload
from jaxcovid.serving.sessions import Sessions

_WAIT_S = 25.0  # the longest that a question for news is kept waiting
_PAINTERS = 2  # threads: as many pictures are drawn at a time, whose arrays may be large
_SWEEP_S = 5.0  # between two looks for pages that were left

# For readers of the description alone: `access` refuses who lacks the token.
_TOKEN = HTTPBearer(
    scheme_name="token",
    description="That of JAXCOVID_TOKEN; none where only this machine is served.",
    auto_error=False,
)
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_FILE = {"requestBody": {"required": True, "content": _BINARY}}

Wait = Annotated[float, Query(ge=0, le=_WAIT_S, allow_inf_nan=False)]


@dataclasses.dataclass(frozen=True)
class NetworkView:
    """A network, as the page shows it.

    Attributes:
      name: of its folder.
      outputs: names of its answers, the positive class first.
      modality: of the images that it was trained on.
      trained_on: name of the data set.
      step: of its checkpoint.
      scores: of its evaluations, in words.
      explained: names of the outputs that have heatmaps.
      threshold: from which it calls an image positive; None of a network for findings.
      segments: there are contours and a share of the lungs involved.
      classifies: False of one whose probability is that share.
      prevalence: share of the positive class in the images that it was calibrated on, if known.
    """

    name: str
    outputs: tuple[str, ...]
    modality: str
    trained_on: str
    step: int
    scores: tuple[str, ...]
    explained: tuple[str, ...]
    threshold: float | None
    segments: bool
    classifies: bool
    prevalence: float | None


@dataclasses.dataclass(frozen=True)
class Opened:
    """A new session: whoever knows its key sees it."""

    session: str


@dataclasses.dataclass(frozen=True)
class Screened:
    """What came of one file: its cases, and what could not be used."""

    cases: list[CaseView]
    problems: list[Upload]


def make_app(
    networks: Networks,
    *,
    limits: Limits,
    folder: Path,
    token: str = "",
    keep: Path | None = None,
    log_names: bool = False,
) -> FastAPI:
    """The application.

    Args:
      networks: that screen.
      limits: what is accepted.
      folder: for the files of open pages; emptied when they are closed.
      token: see `access.Access`.
      keep: gets table and reports of each page when it is closed; None keeps nothing.
      log_names: write names of files into the log, too.
    """
    decoders = DecoderPool(limits)
    sessions = Sessions(networks, decoders, limits, folder, keep=keep, log_names=log_names)
    painters = concurrent.futures.ThreadPoolExecutor(_PAINTERS, "painters")

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        sweeper = asyncio.create_task(_sweep(sessions))
        await _warm_up(decoders, networks, limits, folder / "first")
        yield
        sweeper.cancel()
        await sessions.close_all()
        decoders.close()
        painters.shutdown()
        networks.close()

    app = FastAPI(
        title="jaxcovid",
        version=__version__,
        description="Screens chest images. For research only: no diagnosis.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        redirect_slashes=False,
        dependencies=[Security(_TOKEN)],
    )
    app.add_middleware(Access, token=token)
    app.add_exception_handler(LimitError, _too_much)
    app.add_exception_handler(ImageError, _unusable)
    app.add_exception_handler(OSError, lambda *of: _no_file(sessions, *of))
    _add_page(app)
    _add_sessions(app, sessions)
    case_routes.add(app, sessions, decoders, painters)
    return app


async def _warm_up(decoders: DecoderPool, networks: Networks, limits: Limits, folder: Path) -> None:
    """Screens a first picture, decoded by each process: no client waits for what that imports."""
    folder.mkdir()
    path = folder / decoding.file_name("")
    path.write_bytes(decoding.encode(np.zeros((64, 64), np.uint8)))
    each = [
        decoders.run(decoding.decode, path, networks.sights, limits) for _ in range(limits.decoders)
    ]
    with contextlib.suppress(Exception):  # a client will hear of it
        decoded = await asyncio.gather(*each)
        await networks.answer(decoded[0].slices[0])
    shutil.rmtree(folder)


async def _sweep(sessions: Sessions) -> None:
    while True:
        await asyncio.sleep(_SWEEP_S)
        try:
            await sessions.close_idle()
        except Exception:
            logging.exception("A page could not be closed")


async def _too_much(request: Request, error: Exception) -> Response:
    del request
    return JSONResponse({"detail": str(error)}, 413)


async def _unusable(request: Request, error: Exception) -> Response:
    del request
    return JSONResponse({"detail": str(error)}, 422)


async def _no_file(sessions: Sessions, request: Request, error: Exception) -> Response:
    """Of a page that was closed while it was answered, or of a full disk."""
    key = request.path_params.get("key", "")
    if isinstance(error, FileNotFoundError) and not sessions.is_open(key):
        return JSONResponse({"detail": CLOSED}, 404)
    if is_disk_full(error):
        return JSONResponse({"detail": "the disk is full; try again later"}, 413)
    raise error


def _add_page(app: FastAPI) -> None:
    static = Path(str(importlib.resources.files("jaxcovid.serving") / "static"))
    swagger = Path(str(importlib.resources.files("fastapi_offline") / "static"))
    app.mount("/static", StaticFiles(directory=static))
    app.mount("/swagger", StaticFiles(directory=swagger))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse((static / "index.html").read_text(encoding="utf-8"))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse((static / "docs.html").read_text(encoding="utf-8"))

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Says that the server answers."""
        return {"status": "ok", "version": __version__}


def _add_sessions(app: FastAPI, sessions: Sessions) -> None:
    served = sessions.networks.served

    @app.get("/api/networks")
    async def networks() -> list[NetworkView]:
        """The networks that screen."""
        return [
            NetworkView(
                name=each.name,
                outputs=each.network.outputs,
                modality=each.network.modality,
                trained_on=each.trained_on,
                step=each.step,
                scores=each.scores,
                explained=each.network.explained,
                threshold=each.limit,
                segments=each.network.segments,
                classifies=each.network.classifies,
                prevalence=facts.prevalence if (facts := each.network.training_facts) else None,
            )
            for each in served
        ]

    @app.post("/api/sessions")
    async def open_session() -> Opened:
        """Opens a session, which is closed when nobody has asked for it for a while."""
        return Opened(sessions.open().key)

    @app.get("/api/sessions/{key}")
    async def session(key: str, request: Request, after: int = -1, wait: Wait = 0) -> SessionView:
        """Its files and cases, at once if its version is above `after`, else when it is."""
        found = session_of(sessions, key)
        await while_asked(request, found.news(after, wait))
        return sessions.view(session_of(sessions, key))

    @app.delete("/api/sessions/{key}", status_code=204)
    async def close_session(key: str) -> None:
        """Closes it and removes all that was sent."""
        await sessions.close(session_of(sessions, key))

    @app.post("/api/sessions/{key}/files", status_code=202, openapi_extra=_FILE)
    async def send_file(key: str, request: Request, name: str = "") -> Upload:
        """Takes one file, the body of the request: a picture, DICOM, NIfTI, .npy or a zip file."""
        return await receive(sessions, session_of(sessions, key), name, request)

    @app.post("/api/screen", openapi_extra=_FILE)
    async def screen(request: Request, name: str = "", prevalence: Prevalence = None) -> Screened:
        """Screens one file, the body of the request, and keeps nothing."""
        found = sessions.open()
        try:
            await receive(sessions, found, name, request)
            await while_asked(request, found.settled())
            return Screened(
                [cases.view(each, served, prevalence=prevalence) for each in found.cases.values()],
                sessions.view(found).problems,
            )
        finally:
            await sessions.close(found, keep=False)
