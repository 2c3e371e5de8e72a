"""Clients that send too much, too slowly or what is no number, close pages at work, or leave."""

import asyncio
import contextlib
import io
import json
import logging
import socket
import threading
import time
import zipfile
import zlib

import numpy as np
import pages
import pytest

pytest.importorskip("fastapi")
import uvicorn
from app_test import HOME, LIMITS, networks, screen, send, wait
from fastapi import HTTPException
from fastapi.testclient import TestClient
from fuzz_child import chunk
from page_server import Bright

from jaxcovid.serving import connections, receiving
from jaxcovid.serving.app import make_app
from jaxcovid.serving.limits import Limits


@pytest.fixture
def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def client(scratch):
    with TestClient(make_app(networks("a"), limits=LIMITS, folder=scratch), HOME) as client:
        yield client


@pytest.fixture
def session(client):
    return f"/api/sessions/{client.post('/api/sessions').json()['session']}"


def files(scratch):
    return [path for path in scratch.rglob("*") if path.is_file()]


def zipped(**contents):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return packed.getvalue()


def test_what_was_refused_takes_no_room(client, session, scratch):
    """8 MiB may be kept: what failed before does not count, and is not counted as gone twice."""
    tall = io.BytesIO()
    np.save(tall, np.full((21, 200, 200), -900, np.int16))  # one slice too many
    for content, name in (
        (tall.getvalue(), "tall.npy"),
        (zipped(a=bytes(2**23)), "bomb.zip"),
        (bytes(2**20), "zeros.png"),
    ):
        for _ in range(3):
            view = send(client, session, content, name)
        assert len(view["problems"]) % 3 == 0
        assert not files(scratch)
    assert client.post(f"{session}/files", content=bytes(2**21 + 1)).status_code == 413
    assert not files(scratch)
    full = zipped(a=bytes(2**23 - 2**17))  # with itself just below the limit
    assert "not have read" not in send(client, session, full, "full.zip")["problems"][-1]["error"]


def test_a_zip_file_does_not_count_twice(client, session, scratch):
    image = pages.picture(side=1200)
    packed = zipped(**{"a.png": image})
    view = send(client, session, packed, "a.zip")
    assert len(view["cases"]) == 1
    assert sorted(path.name[:4] for path in files(scratch)) == ["file", "gray", "mask"]


@pytest.mark.parametrize("name", ["heatmap.png", "overlay.png", "image.png", "contours.png"])
def test_a_page_that_is_closed_while_it_is_drawn_is_a_page_that_is_closed(
    client, session, scratch, name, monkeypatch
):
    send(client, session, pages.picture(), "a.png")
    drawing, statuses = threading.Event(), []
    heatmaps = Bright.heatmaps

    def slow(self, images, **options):
        drawing.set()
        time.sleep(0.5)
        return heatmaps(self, images, **options)

    monkeypatch.setattr(Bright, "heatmaps", slow)
    path = f"{session}/cases/0/slices/0/{name}"
    thread = threading.Thread(target=lambda: statuses.append(client.get(path).status_code))
    thread.start()
    drawing.wait(1)
    assert client.delete(session).status_code == 204
    thread.join()
    assert statuses[0] in (200, 404)
    assert not list(scratch.iterdir())
    assert client.get(path).status_code == 404


def test_one_slice_that_cannot_be_screened_takes_no_other_with_it(
    client, session, monkeypatch, tmp_path
):
    def probabilities(self, images):
        means = np.array([[self.read_gray(image).mean() / 255] for image in images])
        if len(images) > 1 and means.max() > 0.6:
            raise RuntimeError("out of memory")
        return np.where(means > 0.6, np.nan, means)

    monkeypatch.setattr(Bright, "probabilities", probabilities)
    view = send(client, session, pages.volume(tmp_path / "a.nii.gz").read_bytes(), "a.nii.gz")
    (case,) = view["cases"]
    assert (case["finished"], case["failed"]) == (12, 1)
    (error,) = client.get(f"{session}/cases/0").json()["errors"].values()
    assert "what is no number" in error
    view = send(client, session, pages.picture(level=220), "a.png")
    assert view["cases"][1]["failed"] == view["files"]["failed"] == 1
    assert client.get(f"{session}/cases/1/slices/0/image.png").status_code == 422
    for name in ("table.csv", "cases/1/report.pdf"):
        assert client.get(f"{session}/{name}").status_code == 200


def test_who_waits_keeps_a_page_open(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxcovid.serving.app._SWEEP_S", 0.05)
    app = make_app(networks("a"), limits=Limits(idle_s=0.3), folder=tmp_path)
    with TestClient(app, HOME) as client:
        session = f"/api/sessions/{client.post('/api/sessions').json()['session']}"
        assert client.get(session, params={"after": 9, "wait": 1.2}).status_code == 200

        def slowly():
            for piece in np.array_split(np.frombuffer(pages.picture(), np.uint8), 10):
                time.sleep(0.12)
                yield piece.tobytes()

        answer = client.post(f"{session}/files", params={"name": "a.png"}, content=slowly())
        assert answer.status_code == 202
        assert len(wait(client, session)["cases"]) == 1


def test_a_page_that_cannot_be_kept_is_closed_all_the_same(tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no such letter")

    monkeypatch.setattr("jaxcovid.serving.case_report.pdf", fail)
    kept, scratch = tmp_path / "kept", tmp_path / "scratch"
    for folder in (kept, scratch):
        folder.mkdir()
    app = make_app(networks("a"), limits=LIMITS, folder=scratch, keep=kept)
    with TestClient(app, HOME) as client:
        session = f"/api/sessions/{client.post('/api/sessions').json()['session']}"
        send(client, session, pages.picture(), "a.png")
        assert client.delete(session).status_code == 204
        assert not list(scratch.iterdir())


def test_nobody_is_worked_for_who_has_left():
    class Request:
        async def receive(self):
            await asyncio.sleep(0.05)
            return {"type": "http.disconnect"}

    ended = []

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def check():
        with pytest.raises(HTTPException, match="left"):
            await receiving.while_asked(Request(), work())
        await asyncio.sleep(0)

    asyncio.run(check())
    assert ended == [True]


def test_numbers_have_to_be_numbers(client, session):
    send(client, session, pages.picture(), "a.png")
    image = f"{session}/cases/0/slices/0/image.png"
    for query in ("centre=nan&width=1", "centre=0&width=inf", "centre=1e400&width=1", "width=0"):
        assert client.get(f"{image}?{query}").status_code == 422
    for query in ("wait=nan", "wait=inf", "wait=-1", "wait=26", "after=1e400", "after=x"):
        assert client.get(f"{session}?{query}").status_code == 422
    for query in ("nan", "inf", "0", "1", "-1"):
        assert client.get(f"{session}/cases/0?prevalence={query}").status_code == 422
    for number in ("-1", "9" * 30):
        assert client.get(f"{session}/cases/{number}").status_code == 404
        assert client.get(f"{session}/cases/0/slices/{number}/facts").status_code == 404
    assert client.get(f"{image}?centre=0&width=1e-320").status_code == 200


NAME = "\u202egnp.<img src=x onerror=alert(1)>\0\r\n$x$\\$ \u75c5\ue000"


def test_names_are_shown_as_they_are_but_for_what_controls(client, session, recwarn, caplog):
    caplog.set_level(logging.DEBUG)
    view = send(client, session, pages.picture(), NAME)
    title = view["cases"][0]["title"]
    assert title == "\ufffdgnp.<img src=x onerror=alert(1)>\ufffd\ufffd\ufffd$x$\\$ \u75c5\ufffd"
    report = client.get(f"{session}/cases/0/report.pdf")
    assert report.content.startswith(b"%PDF")
    assert "content-disposition" not in report.headers
    # The font lacks a letter, which no warning names.
    assert not [each for each in recwarn if "75C5" in str(each.message) or "Glyph" in str(each)]
    assert "75C5" not in caplog.text
    packed = zipped(**{"same.png": pages.picture(seed=1), "a/same.png": pages.picture(seed=2)})
    view = send(client, session, packed, "all.zip")
    titles = {case["title"] for case in view["cases"][1:]}  # decoded in any order
    assert titles == {"same.png", "a/same.png"}
    first, second = (case["probabilities"] for case in view["cases"][1:])
    assert first != second


def test_a_picture_packed_to_burst_is_refused(client):
    header = (30000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(2**20))), (b"IEND", b""))
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*of) for of in chunks)
    answer = screen(client, bomb)
    assert "At most 64,000,000 pixels" in answer["problems"][0]["error"]


@pytest.fixture
def hasty(scratch, monkeypatch):
    """The address of a server that waits for half a second."""
    monkeypatch.setattr(connections, "_WAIT_S", 0.5)
    with served(make_app(networks("a"), limits=LIMITS, folder=scratch)) as address:
        yield address


@contextlib.contextmanager
def served(app):
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=connections.ImpatientProtocol, ws="none", log_config=None, timeout_keep_alive=60
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()
    finally:
        server.should_exit = True
        thread.join(30)


def head(address, path="/health", more=""):
    return f"GET {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n{more}\r\n".encode()


def seconds_until_closed(connection, byte):
    """How long a server keeps a connection to which a byte is sent now and then."""
    begun = time.monotonic()
    connection.settimeout(0.05)
    while time.monotonic() - begun < 20:
        try:
            connection.sendall(byte)
            if not connection.recv(2**16):
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return time.monotonic() - begun


@pytest.mark.parametrize("begin", [0, 20, None])
def test_a_connection_that_only_takes_a_place_is_closed(hasty, begin):
    """Nothing is sent, the start of a request, or one request and no other."""
    with socket.create_connection(hasty, timeout=30) as connection:
        connection.sendall(head(hasty)[:begin])
        assert 0.4 < seconds_until_closed(connection, b"" if begin is None else b"G") < 10


def test_an_answer_may_take_its_time(hasty):
    with socket.create_connection(hasty, timeout=30) as connection:
        connection.sendall(b"POST /api/sessions HTTP/1.1\r\n" + head(hasty).split(b"\r\n", 1)[1])
        answer = connection.recv(2**16).decode()
        key = json.loads(answer.partition("\r\n\r\n")[2] or connection.recv(2**16))["session"]
        connection.sendall(head(hasty, f"/api/sessions/{key}?after=9&wait=1.5"))
        assert b"200 OK" in connection.recv(2**16)


@pytest.mark.parametrize("reads", [False, True])
def test_who_does_not_read_a_long_answer_loses_its_place(reads, monkeypatch):
    """One that reads 4 MiB/s of 16 MiB, eight times as long as the server waits, gets all."""
    monkeypatch.setattr(connections, "_WAIT_S", 0.5)
    ended, piece, count = threading.Event(), bytes(2**20), 16

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(count):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        ended.set()

    with served(app) as address, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        connection.connect(address)
        connection.sendall(head(address))
        if not reads:
            assert ended.wait(15)  # what is written to a closed connection goes nowhere
        received = 0
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(2**18):
                received += len(data)
                if reads and received < len(piece) * count:
                    time.sleep(len(data) / 2**22)
                if received >= len(piece) * count:
                    break
    assert (received >= len(piece) * count) == reads


def test_web_sockets_and_huge_heads_are_refused(hasty):
    upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: YQ==\r\n"
    for more, status in ((upgrade, b"200"), (f"X: {'a' * 2**17}\r\n", b"400")):
        with socket.create_connection(hasty, timeout=30) as connection:
            connection.sendall(head(hasty, "/static/page.js", more)[:70000])
            assert connection.recv(100).split()[1] == status


def test_the_client_sends_images_of_this_machine_through_no_proxy(hasty, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    client = pages.client(f"http://{hasty[0]}:{hasty[1]}/")
    assert client.screen(pages.picture(), name="a.png")["cases"]


def test_news_of_many_cases_come_together(client, session):
    """One picture is told at once; of many each question for news gets several."""
    packed = zipped(**{f"{number}.png": pages.picture(seed=number) for number in range(10)})
    client.post(f"{session}/files", params={"name": "all.zip"}, content=packed)
    version, told = -1, 0
    while True:
        view = client.get(session, params={"after": version, "wait": 20}).json()
        assert view["version"] > version
        version, told = view["version"], told + 1
        if view["files"].get("done") == 11:
            break
    assert told < version
