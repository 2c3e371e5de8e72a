"""What can be asked about a case and its slices; see `app`."""

import asyncio
import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Query
from fastapi.responses import Response

from jaxcovid.data.image_error import ImageError
from jaxcovid.inference.training_facts import Neighbours
from jaxcovid.serving import case_report, cases, decoding, pictures
from jaxcovid.serving.case_report import Layers
from jaxcovid.serving.cases import Case, CaseView, Entry
from jaxcovid.serving.decoding import HOUNSFIELD, Pixels
from jaxcovid.serving.decoding_pool import DecoderPool
from jaxcovid.serving.receiving import CLOSED
from jaxcovid.serving.served_networks import Networks, read_masks
from jaxcovid.serving.session import Session
from jaxcovid.serving.sessions import Sessions

_SLICE = "/api/sessions/{key}/cases/{number}/slices/{slice_number}"
_FARTHEST = 1e6  # Hounsfield units or gray levels, beyond all that there are

Prevalence = Annotated[float | None, Query(gt=0, lt=1, allow_inf_nan=False)]
Centre = Annotated[float | None, Query(ge=-_FARTHEST, le=_FARTHEST, allow_inf_nan=False)]
Strength = Annotated[float, Query(ge=0, le=1, allow_inf_nan=False)]
Width = Annotated[float | None, Query(gt=0, le=_FARTHEST, allow_inf_nan=False)]


@dataclasses.dataclass(frozen=True)
class Window:
    """Through which a slice is seen; without both it is seen as the network does."""

    centre: Centre = None
    width: Width = None

    @property
    def given(self) -> tuple[float, float] | None:
        """Centre and width, if there are both."""
        both = self.centre is not None and self.width is not None
        return (self.centre, self.width) if both else None


class _Png(Response):
    media_type = "image/png"


class _Pdf(Response):
    media_type = "application/pdf"


class _Csv(Response):
    media_type = "text/csv"


def add(
    app: FastAPI,
    sessions: Sessions,
    decoders: DecoderPool,
    painters: concurrent.futures.ThreadPoolExecutor,
) -> None:
    """Adds the routes of cases and slices to an application.

    Args:
      app: the application.
      sessions: that have them.
      decoders: read volumes again, for another window.
      painters: draw pictures.
    """
    _add_cases(app, sessions)
    _add_slices(app, sessions, decoders, painters)
    _add_layers(app, sessions, painters)


def session_of(sessions: Sessions, key: str) -> Session:
    """The session of a key, or the answer that there is none."""
    try:
        return sessions.get(key)
    except KeyError:
        raise HTTPException(404, CLOSED) from None


def _case(sessions: Sessions, key: str, number: int) -> Case:
    found = session_of(sessions, key).cases.get(number)
    if found is None:
        raise HTTPException(404, f"there is no case {number}")
    return found


def _add_cases(app: FastAPI, sessions: Sessions) -> None:
    networks, served = sessions.networks, sessions.networks.served

    @app.get("/api/sessions/{key}/cases/{number}")
    async def case(key: str, number: int, prevalence: Prevalence = None) -> CaseView:
        """All about a case."""
        return cases.view(_case(sessions, key, number), served, prevalence=prevalence)

    @app.get("/api/sessions/{key}/cases/{number}/report.pdf", response_class=_Pdf)
    async def report(key: str, number: int, prevalence: Prevalence = None) -> Response:
        """A page about a case, marked for research only."""
        found = _case(sessions, key, number)
        content = await networks.run(case_report.pdf, found, networks, prevalence)
        return _Pdf(content)

    @app.get("/api/sessions/{key}/table.csv", response_class=_Csv)
    async def table(key: str) -> Response:
        """All slices of all cases."""
        found = list(session_of(sessions, key).cases.values())
        return _Csv(case_report.table(found, served))


def _entry(
    sessions: Sessions, key: str, number: int, slice_number: int, network: int
) -> tuple[Case, Entry]:
    """A slice that can be shown and its case, or the answer that one of the numbers is none."""
    if not 0 <= network < len(sessions.networks.served):
        raise HTTPException(404, f"there is no network {network}")
    case = _case(sessions, key, number)
    if not 0 <= slice_number < len(case.entries):
        raise HTTPException(404, f"case {number} has no slice {slice_number}")
    entry = case.entries[slice_number]
    if entry.slice.error:
        raise ImageError(entry.slice.error)
    return case, entry


def _add_slices(
    app: FastAPI,
    sessions: Sessions,
    decoders: DecoderPool,
    painters: concurrent.futures.ThreadPoolExecutor,
) -> None:
    networks, path = sessions.networks, _SLICE
    see = functools.partial(_see, networks, decoders, painters)

    @app.get(path + "/image.png", response_class=_Png)
    async def image(
        key: str,
        number: int,
        slice_number: int,
        network: int = 0,
        window: Annotated[Window, Depends()] = Window(),
    ) -> Response:
        """The slice, as a network sees it or through a window of its units."""
        case, entry = _entry(sessions, key, number, slice_number, network)
        return _Png(await see(case, entry, network, window.given))

    @app.get(path + "/overlay.png", response_class=_Png)
    async def overlay(
        key: str,
        number: int,
        slice_number: int,
        network: int = 0,
        output: Annotated[int, Query(ge=0)] = 0,
        heatmap: Strength = 1.0,
        contours: bool = True,
        window: Annotated[Window, Depends()] = Window(),
    ) -> Response:
        """The slice with heatmap and contours in one picture, marked for research only."""
        case, entry = _entry(sessions, key, number, slice_number, network)
        layers = Layers(output, heatmap, contours)
        shown = await see(case, entry, network, window.given) if window.given else None
        return _Png(await networks.run(_overlay, entry, networks, network, layers, shown))

    @app.get(path + "/facts")
    async def facts(key: str, number: int, slice_number: int, network: int = 0) -> list[Neighbours]:
        """Facts beside the disease in which training images like this one went with a class."""
        case, entry = _entry(sessions, key, number, slice_number, network)
        known = networks.served[network].network.training_facts
        if known is None:
            return []
        view, colour = networks.view(network, entry.slice), entry.slice.colour
        size = entry.slice.source.stat().st_size if case.kind == cases.PICTURE else None
        return await _paint(painters, lambda: known.neighbours(view.read(), colour, size))


def _add_layers(
    app: FastAPI, sessions: Sessions, painters: concurrent.futures.ThreadPoolExecutor
) -> None:
    networks, path = sessions.networks, _SLICE

    @app.get(path + "/heatmap.png", response_class=_Png)
    async def heatmap(
        key: str, number: int, slice_number: int, network: int = 0, output: int = 0
    ) -> Response:
        """Where a network looks (Grad-CAM), to be laid over the slice."""
        _, entry = _entry(sessions, key, number, slice_number, network)
        which = networks.served[network].network
        if not 0 <= output < len(which.explained):
            raise HTTPException(404, "this network has no such heatmap")
        found = await networks.run(networks.heatmap, network, entry.slice, output)
        shape = networks.view(network, entry.slice).shape
        return _Png(await _paint(painters, pictures.heatmap_layer, found, shape))

    @app.get(path + "/contours.png", response_class=_Png)
    async def contours(key: str, number: int, slice_number: int, network: int = 0) -> Response:
        """Outlines of lungs and lesion, to be laid over the slice."""
        _, entry = _entry(sessions, key, number, slice_number, network)
        if not entry.answers or entry.answers[network].masks is None:
            raise HTTPException(404, "there are no contours of this slice")
        shape = networks.view(network, entry.slice).shape
        return _Png(await _paint(painters, _contours, entry.answers[network].masks, shape))


async def _paint(
    painters: concurrent.futures.ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any
) -> Any:
    return await asyncio.get_running_loop().run_in_executor(painters, function, *arguments)


def _gray(view: Pixels, window: tuple[float, float] | None) -> bytes:
    gray = view.read()
    return decoding.encode(decoding.through_gray_window(gray, window) if window else gray)


def _contours(masks: Path, shape: tuple[int, int]) -> bytes:
    return pictures.contour_layer(read_masks(masks, shape))


def _overlay(
    entry: Entry,
    networks: Networks,
    network: int,
    layers: Layers,
    shown: bytes | None,
) -> bytes:
    """A PNG of a slice and its layers; `shown` is one of the slice, None as the network sees it."""
    gray = None
    if shown is not None:
        gray = cv2.imdecode(np.frombuffer(shown, np.uint8), cv2.IMREAD_GRAYSCALE)
    picture = case_report.picture(entry, networks, network, layers, gray)
    picture = pictures.labelled(picture, case_report.RESEARCH_ONLY)
    return decoding.encode(np.ascontiguousarray(picture[..., ::-1]))


async def _see(
    networks: Networks,
    decoders: DecoderPool,
    painters: concurrent.futures.ThreadPoolExecutor,
    case: Case,
    entry: Entry,
    network: int,
    window: tuple[float, float] | None,
) -> bytes:
    """A PNG of a slice, as a network sees it or through a window of the units of its case.

    For another window of Hounsfield units its file is read again.
    """
    if window and case.unit == HOUNSFIELD:
        sight = dataclasses.replace(networks.sights[0], window=window)
        return await decoders.run(decoding.show, entry.slice.source, entry.slice.number, sight)
    return await _paint(painters, _gray, networks.view(network, entry.slice), window)
