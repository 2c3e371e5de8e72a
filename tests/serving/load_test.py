"""Many clients at once, some of them rude: every answer right, nothing lost, nothing grows.

JAXCOVID_LOAD_S=300 python -m pytest -s -m long tests/serving/load_test.py
"""

import collections
import contextlib
import http.client
import io
import json
import os
import random
import socket
import threading
import time
import urllib.parse
import zipfile

import cv2
import nibabel
import numpy as np
import pages
import psutil
import pytest

pytest.importorskip("fastapi")
from jaxcovid.data.hounsfield import through_window
from jaxcovid.serving.client import ServerError

SECONDS = float(os.environ.get("JAXCOVID_LOAD_S", "20"))
CLIENTS = 50
MORE_BYTES = 100 * 2**20  # of server and decoders together, beyond what they have when warm
MORE_FILES = 10  # open in the server when all clients have gone, beyond those before they came
ANSWER_S = 60  # far beyond what any answer takes
BAD = {"text.png": b"no image", "empty.png": b"", "cut.zip": b"PK\3\4" + bytes(50)}


class Files:
    """Files whose answers are known."""

    def __init__(self, folder):
        self.pictures, self.volumes = [], []
        for seed in range(8):
            content = pages.picture(level=40 + 25 * seed, seed=seed)
            gray = cv2.imdecode(np.frombuffer(content, np.uint8), 0)
            self.pictures.append((content, gray.mean() / 255))
            path = pages.volume(folder / f"{seed}.nii.gz", slices=4 + seed, brightest=2, seed=seed)
            gray = through_window(np.asarray(nibabel.load(path).dataobj), (-600, 1500))
            self.volumes.append((path.read_bytes(), gray.mean() / 255))

    def picture(self):
        return random.choice(self.pictures)

    def volume(self):
        return random.choice(self.volumes)


class Visitor:
    """A client that does one thing after another."""

    def __init__(self, number, address, files):
        self.number, self.files = number, files
        self.client = pages.client(address, timeout_s=ANSWER_S)
        self.host = urllib.parse.urlsplit(address).netloc
        self.done, self.latencies_s = collections.Counter(), []

    def ask(self, method, path, content=None):
        connection = http.client.HTTPConnection(self.host, timeout=ANSWER_S)
        with contextlib.closing(connection):
            connection.request(method, path, content)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def get(self, path):
        status, content = self.ask("GET", path)
        assert status == 200, (status, content)
        return content

    @contextlib.contextmanager
    def session(self):
        status, content = self.ask("POST", "/api/sessions")
        assert status == 200, content
        path = f"/api/sessions/{json.loads(content)['session']}"
        yield path
        assert self.ask("DELETE", path)[0] == 204
        assert self.ask("GET", path)[0] == 404

    def send(self, session, name, content):
        query = urllib.parse.urlencode({"name": name})
        status, answer = self.ask("POST", f"{session}/files?{query}", content)
        assert status == 202, answer

    def wait(self, session):
        deadline, version = time.monotonic() + ANSWER_S, -1
        while time.monotonic() < deadline:
            view = json.loads(self.get(f"{session}?after={version}&wait=5"))
            if view["files"] and not set(view["files"]) - {"done", "failed", "left out"}:
                return view
            version = view["version"]
        raise AssertionError(f"no answer came: {view}")

    def screen(self, name, content, expected):
        begun = time.perf_counter()
        (case,) = self.client.screen(content, name=name)["cases"]
        (probability,) = case["findings"][0]["probabilities"].values()
        assert probability == pytest.approx(expected, abs=1e-4)
        assert case["summary"]["title"] == name
        return time.perf_counter() - begun

    # What it does.

    def picture(self):
        self.latencies_s.append(self.screen(f"{self.number}.png", *self.files.picture()))

    def volume(self):
        self.screen(f"{self.number}.nii.gz", *self.files.volume())

    def bad_file(self):
        name = random.choice(list(BAD))
        answer = self.client.screen(BAD[name], name=name)
        assert not answer["cases"]
        assert [each["name"] for each in answer["problems"]] == [name]

    def many_files(self):
        """A page with a zip file and a volume; it sees its own cases and no other's."""
        packed, expected = io.BytesIO(), {}
        with zipfile.ZipFile(packed, "w") as archive:
            for each in range(3):
                name = f"{self.number}_{each}.png"
                content, expected[name] = self.files.picture()
                archive.writestr(name, content)
            archive.writestr("text.png", BAD["text.png"])
        content, expected[f"{self.number}.nii.gz"] = self.files.volume()
        with self.session() as session:
            self.send(session, "all.zip", packed.getvalue())
            self.send(session, f"{self.number}.nii.gz", content)
            view = self.wait(session)
            found = {case["title"]: case["probabilities"] for case in view["cases"]}
            assert set(found) == set(expected)
            for name, (probability,) in found.items():
                assert probability == pytest.approx(expected[name], abs=1e-4)
            assert [each["name"] for each in view["problems"]] == ["text.png"]
            slices = f"{session}/cases/0/slices/0"
            for picture in ("image.png", "image.png?centre=-500&width=900", "heatmap.png"):
                assert self.get(f"{slices}/{picture}").startswith(b"\x89PNG")

    def closed_at_work(self):
        with self.session() as session:
            self.send(session, "a.nii.gz", self.files.volume()[0])
            for _ in range(random.randrange(4)):
                self.send(session, "a.png", self.files.picture()[0])

    def aborted(self):
        """Leaves in the middle of a file, or with the whole file sent and no answer heard."""
        content = self.files.volume()[0]
        head = f"POST /api/screen?name=a.nii.gz HTTP/1.1\r\nHost: {self.host}\r\n"
        head += f"Content-Length: {len(content)}\r\n\r\n"
        host, _, port = self.host.partition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + content[: random.choice([0, 1000, len(content)])])
            time.sleep(random.choice([0, 0.01, 0.1]))

    def run(self, until, errors):
        acts = (
            *[self.picture] * 6,
            *[self.volume] * 2,
            *(self.bad_file, self.many_files, self.closed_at_work, self.aborted),
        )
        while time.monotonic() < until and not errors:
            act = random.choice(acts)
            try:
                act()
            except (AssertionError, OSError, ValueError, ServerError) as error:
                errors.append(f"{act.__name__}: {error!r}")
            self.done[act.__name__] += 1


def watch(process, until):
    """Bytes of the server and its decoders together, every half second."""
    server, sizes = psutil.Process(process.pid), []
    while time.monotonic() < until:
        size = server.memory_info().rss
        for each in server.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                size += each.memory_info().rss
        sizes.append(size)
        time.sleep(0.5)
    return sizes


@pytest.mark.long
def test_many_clients_get_right_answers_and_nothing_grows(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process, address = pages.start(env={**os.environ, "TMPDIR": str(scratch)})
    (folder,) = scratch.glob("jaxcovid-serve-*")
    first = Visitor(-1, address, Files(tmp_path))
    for act in (first.picture, first.volume, first.many_files):
        act()
    open_files = psutil.Process(process.pid).num_fds()
    until, errors = time.monotonic() + SECONDS, []
    visitors = [Visitor(number, address, first.files) for number in range(CLIENTS)]
    threads = [threading.Thread(target=each.run, args=(until, errors)) for each in visitors]
    for each in threads:
        each.start()
    sizes = watch(process, until)
    for each in threads:
        each.join(2 * ANSWER_S)
    assert not errors, errors[:5]
    assert not any(each.is_alive() for each in threads), "a client still waits"
    done = sum((each.done for each in visitors), collections.Counter())
    latencies = [latency for each in visitors for latency in each.latencies_s]
    shown = ", ".join(
        f"{100 * q:.0f} %: {np.quantile(latencies, q):.3f} s" for q in (0.5, 0.95, 0.99, 1)
    )
    warm, end = np.median(sizes[len(sizes) // 3 : len(sizes) // 2]), np.median(sizes[-5:])
    print(f"\n{sum(done.values()) / SECONDS:.0f} visits/s: {dict(done)}; a PNG's answer, {shown}")
    print(f"memory: warm {warm / 2**20:.0f} MiB, at the end {end / 2**20:.0f} MiB")
    assert set(done) == {
        *("picture", "volume", "bad_file", "many_files", "closed_at_work", "aborted")
    }
    assert end - warm < MORE_BYTES
    deadline = time.monotonic() + 30
    while list(folder.iterdir()) or psutil.Process(process.pid).num_fds() > open_files + MORE_FILES:
        assert time.monotonic() < deadline, (
            f"{len(list(folder.iterdir()))} folders are left, "
            f"{psutil.Process(process.pid).num_fds()} files open, {open_files} before"
        )
        time.sleep(0.2)
    first.picture()
    said = "".join(process.said)
    assert "Traceback" not in said, said[said.index("Traceback") - 500 :][:3000]
    assert '"status": 5' not in said
    process.terminate()
    process.wait(30)
    assert not list(scratch.iterdir())
