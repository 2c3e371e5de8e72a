"""What can be asked about a case and its slices; see `app`."""

import asyncio
import dataclasses
from typing import Annotated

import numpy as np
from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import Response

from jaxcovid.data.image_error import ImageError
from jaxcovid.inference.training_facts import Neighbours
from jaxcovid.serving import case_report, cases, decoding, pictures
from jaxcovid.serving.cases import Case, CaseView, Entry
from jaxcovid.serving.decoding import HOUNSFIELD
from jaxcovid.serving.decoding_pool import DecoderPool
from jaxcovid.serving.served_networks import read_masks
from jaxcovid.serving.sessions import Session, Sessions

Prevalence = Annotated[float | None, Query(gt=0, lt=1)]


def add(app: FastAPI, sessions: Sessions, decoders: DecoderPool) -> None:
    """Adds the routes of cases and slices to an application."""
    _add_cases(app, sessions)
    _add_slices(app, sessions, decoders)


def session_of(sessions: Sessions, key: str) -> Session:
    """The session of a key, or the answer that there is none."""
    try:
        return sessions.get(key)
    except KeyError:
        raise HTTPException(404, "this page was closed; open it again") from None


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

    @app.get("/api/sessions/{key}/cases/{number}/report.pdf")
    async def report(key: str, number: int, prevalence: Prevalence = None) -> Response:
        """A page about a case, marked for research only."""
        found = _case(sessions, key, number)
        content = await networks.run(case_report.pdf, found, networks, prevalence)
        return Response(content, media_type="application/pdf")

    @app.get("/api/sessions/{key}/table.csv")
    async def table(key: str) -> Response:
        """All slices of all cases."""
        found = list(session_of(sessions, key).cases.values())
        return Response(case_report.table(found, served), media_type="text/csv; charset=utf-8")


def _entry(sessions: Sessions, key: str, number: int, slice_number: int) -> tuple[Case, Entry]:
    case = _case(sessions, key, number)
    if not 0 <= slice_number < len(case.entries):
        raise HTTPException(404, f"case {number} has no slice {slice_number}")
    entry = case.entries[slice_number]
    if entry.slice.error:
        raise ImageError(entry.slice.error)
    return case, entry


def _add_slices(app: FastAPI, sessions: Sessions, decoders: DecoderPool) -> None:
    networks = sessions.networks
    path = "/api/sessions/{key}/cases/{number}/slices/{slice_number}"

    def check_network(network: int) -> None:
        if not 0 <= network < len(networks.served):
            raise HTTPException(404, f"there is no network {network}")

    @app.get(path + "/image.png")
    async def image(
        key: str,
        number: int,
        slice_number: int,
        centre: float | None = None,
        width: Annotated[float | None, Query(gt=0)] = None,
    ) -> Response:
        """The slice, through a window of Hounsfield units or of gray levels if one is given."""
        case, entry = _entry(sessions, key, number, slice_number)
        if centre is None or width is None:
            content = decoding.encode(networks.view(0, entry.slice).read())
        elif case.unit == HOUNSFIELD:
            sight = dataclasses.replace(networks.sights[0], window=(centre, width))
            source = entry.slice
            content = await decoders.run(decoding.show, source.source, source.number, sight)
        else:
            gray = networks.view(0, entry.slice).read()
            content = decoding.encode(decoding.through_gray_window(gray, (centre, width)))
        return _png(content)

    @app.get(path + "/heatmap.png")
    async def heatmap(
        key: str, number: int, slice_number: int, network: int = 0, output: int = 0
    ) -> Response:
        """Where a network looks (Grad-CAM), to be laid over the slice."""
        check_network(network)
        _, entry = _entry(sessions, key, number, slice_number)
        which = networks.served[network].network
        if not which.has_gradcam or not 0 <= output < len(which.outputs):
            raise HTTPException(404, "this network has no such heatmap")
        view = networks.view(network, entry.slice)
        kept = view.file.with_name(f"heatmap_{network}_{output}_{view.start}.png")
        if not kept.exists():
            cams = await networks.run(lambda: which.heatmaps([view.read()], output=output))
            kept.write_bytes(pictures.heatmap_layer(cams[0], view.shape))
        return _png(kept.read_bytes())

    @app.get(path + "/contours.png")
    async def contours(key: str, number: int, slice_number: int, network: int = 0) -> Response:
        """Outlines of lungs and lesion, to be laid over the slice."""
        check_network(network)
        _, entry = _entry(sessions, key, number, slice_number)
        if not entry.answers or entry.answers[network].masks is None:
            raise HTTPException(404, "there are no contours of this slice")
        shape = networks.view(network, entry.slice).shape
        return _png(pictures.contour_layer(read_masks(entry.answers[network].masks, shape)))

    @app.get(path + "/overlay.png")
    async def overlay(key: str, number: int, slice_number: int, network: int = 0) -> Response:
        """The slice with heatmap and contours in one picture."""
        check_network(network)
        _, entry = _entry(sessions, key, number, slice_number)
        picture = await networks.run(case_report.picture, entry, networks, network)
        return _png(decoding.encode(np.ascontiguousarray(picture[..., ::-1])))

    @app.get(path + "/facts")
    async def facts(key: str, number: int, slice_number: int, network: int = 0) -> list[Neighbours]:
        """Facts beside the disease in which training images like this one went with a class."""
        check_network(network)
        case, entry = _entry(sessions, key, number, slice_number)
        known = networks.served[network].network.training_facts
        if known is None:
            return []
        gray = networks.view(network, entry.slice).read()
        size = entry.slice.source.stat().st_size if case.kind == cases.PICTURE else None
        return await asyncio.to_thread(known.neighbours, gray, entry.slice.colour, size)


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png")
