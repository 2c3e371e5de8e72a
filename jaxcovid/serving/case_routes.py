"""What can be asked about a case and its slices; see `app`."""

import asyncio
import concurrent.futures
import dataclasses
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
from jaxcovid.serving.decoding import HOUNSFIELD, Pixels, Slice
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
    _add_overlay(app, sessions, decoders)


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


def _entry(sessions: Sessions, key: str, number: int, slice_number: int) -> tuple[Case, Entry]:
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

    @app.get(path + "/image.png", response_class=_Png)
    async def image(
        key: str,
        number: int,
        slice_number: int,
        network: int = 0,
        window: Annotated[Window, Depends()] = Window(),
    ) -> Response:
        """The slice, as a network sees it or through a window of its units."""
        _check_network(networks, network)
        case, entry = _entry(sessions, key, number, slice_number)
        if window.given and case.unit == HOUNSFIELD:
            return _png(await _through(decoders, networks, entry, window.given))
        view = networks.view(network, entry.slice)
        return _png(await _paint(painters, _gray, view, window.given))

    @app.get(path + "/facts")
    async def facts(key: str, number: int, slice_number: int, network: int = 0) -> list[Neighbours]:
        """Facts beside the disease in which training images like this one went with a class."""
        _check_network(networks, network)
        case, entry = _entry(sessions, key, number, slice_number)
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
        _check_network(networks, network)
        _, entry = _entry(sessions, key, number, slice_number)
        which = networks.served[network].network
        if not 0 <= output < len(which.explained):
            raise HTTPException(404, "this network has no such heatmap")
        found = await networks.run(_heatmap, networks, network, entry.slice, output)
        shape = networks.view(network, entry.slice).shape
        return _png(await _paint(painters, pictures.heatmap_layer, found, shape))

    @app.get(path + "/contours.png", response_class=_Png)
    async def contours(key: str, number: int, slice_number: int, network: int = 0) -> Response:
        """Outlines of lungs and lesion, to be laid over the slice."""
        _check_network(networks, network)
        _, entry = _entry(sessions, key, number, slice_number)
        if not entry.answers or entry.answers[network].masks is None:
            raise HTTPException(404, "there are no contours of this slice")
        shape = networks.view(network, entry.slice).shape
        return _png(await _paint(painters, _contours, entry.answers[network].masks, shape))


def _add_overlay(app: FastAPI, sessions: Sessions, decoders: DecoderPool) -> None:
    networks, path = sessions.networks, _SLICE

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
        _check_network(networks, network)
        case, entry = _entry(sessions, key, number, slice_number)
        layers, shown = Layers(output, heatmap, contours), None
        if window.given and case.unit == HOUNSFIELD:
            shown = await _through(decoders, networks, entry, window.given)
        return _png(await networks.run(_overlay, entry, networks, network, layers, window, shown))


def _check_network(networks: Networks, network: int) -> None:
    if not 0 <= network < len(networks.served):
        raise HTTPException(404, f"there is no network {network}")


async def _paint(
    painters: concurrent.futures.ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any
) -> Any:
    return await asyncio.get_running_loop().run_in_executor(painters, function, *arguments)


def _gray(view: Pixels, window: tuple[float, float] | None) -> bytes:
    gray = view.read()
    return decoding.encode(decoding.through_gray_window(gray, window) if window else gray)


def _heatmap(networks: Networks, network: int, slice_: Slice, output: int) -> np.ndarray:
    """The heatmap of a slice, computed once.

    Called in the thread of the networks: there the files of a closed page are removed, too.
    """
    view = networks.view(network, slice_)
    kept = view.file.with_name(f"heatmap_{network}_{output}_{view.start}.npy")
    if not kept.exists():
        (found,) = networks.served[network].network.heatmaps([view.read()], output=output)
        np.save(kept, found)
    return np.load(kept)


def _contours(masks: Path, shape: tuple[int, int]) -> bytes:
    return pictures.contour_layer(read_masks(masks, shape))


def _overlay(
    entry: Entry,
    networks: Networks,
    network: int,
    layers: Layers,
    window: Window,
    shown: bytes | None,
) -> bytes:
    """A PNG of a slice and its layers; `shown` is one of the slice through the window."""
    gray = None
    if shown is not None:
        gray = cv2.imdecode(np.frombuffer(shown, np.uint8), cv2.IMREAD_GRAYSCALE)
    elif window.given:
        gray = networks.view(network, entry.slice).read()
        gray = decoding.through_gray_window(gray, window.given)
    picture = case_report.picture(entry, networks, network, layers, gray)
    picture = pictures.labelled(picture, case_report.RESEARCH_ONLY)
    return decoding.encode(np.ascontiguousarray(picture[..., ::-1]))


async def _through(
    decoders: DecoderPool, networks: Networks, entry: Entry, window: tuple[float, float]
) -> bytes:
    """A PNG of a slice through a window of Hounsfield units, read again from its file."""
    sight = dataclasses.replace(networks.sights[0], window=window)
    return await decoders.run(decoding.show, entry.slice.source, entry.slice.number, sight)


def _png(content: bytes) -> Response:
    return _Png(content)
