"""Whatever is sent to the page's server, it answers as documented, and the next good file right."""

import contextlib
import http.client
import io
import json
import pathlib
import urllib.parse
import zipfile

import fuzz_child
import pages
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi")

ANSWER_S = 90  # decoding has 60
DOCUMENTED = {200, 202, 204, 401, 403, 404, 405, 408, 413, 422}
NAMES = {
    "images": ["scan.png", "scan.jpg", ""],
    "dicom": ["scan.dcm", "IM0001"],
    "volumes": ["scan.nii", "scan.nii.gz", "scan.npy"],
    "zips": ["scans.zip", "scan.png"],
}


def examples(number):
    return settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


class Server:
    """A server and one connection to it, made anew when it is closed."""

    def __init__(self, *options):
        self.process, self.address = pages.start("one", *options)
        host = urllib.parse.urlsplit(self.address).netloc
        self.connection = http.client.HTTPConnection(host, timeout=ANSWER_S)

    def ask(self, method, path, content=None, headers=()):
        for last in (False, True):
            try:
                self.connection.putrequest(method, path)
                for name, value in headers:
                    self.connection.putheader(name, value)
                if content is not None or method in ("POST", "PUT", "PATCH"):
                    self.connection.putheader("Content-Length", str(len(content or b"")))
                self.connection.endheaders(content)
                answer = self.connection.getresponse()
                return answer.status, answer.read()
            except (http.client.HTTPException, ConnectionError):
                self.connection.close()  # it may have been closed since the last request
                if last:
                    raise
        raise AssertionError

    def screen(self, name, content):
        query = urllib.parse.urlencode({"name": name})
        status, answer = self.ask("POST", f"/api/screen?{query}", content)
        assert status == 200, (status, answer)
        return json.loads(answer)

    def check(self):
        """Still answers right, and had no error of its own."""
        (case,) = self.screen("good.png", pages.picture())["cases"]
        (probability,) = case["findings"][0]["probabilities"].values()
        assert probability == pytest.approx(0.459284, abs=1e-5)
        assert self.process.poll() is None
        said = "".join(self.process.said)
        assert "Traceback" not in said, said[said.index("Traceback") - 500 :][:4000]
        assert '"status": 5' not in said


def zips(folder):
    del folder
    archives = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", method) as archive:
            for number in range(3):
                archive.writestr(f"folder/{number}.png", pages.picture(side=24, seed=number))
            archive.writestr("text.txt", b"text " * 100)
        archives.append(packed.getvalue())
    return fuzz_child.mutated(archives), None, None


READERS = {
    "images": fuzz_child.image_reader,
    "dicom": fuzz_child.dicom_reader,
    "volumes": fuzz_child.volume_reader,
    "zips": zips,
}


def feed(kind, number, folder):
    strategy, _, _ = READERS[kind](folder)
    server, read = Server(), 0

    @seed(1)
    @examples(number)
    @given(strategy, st.sampled_from(NAMES[kind]))
    def send(data, name):
        nonlocal read
        if kind == "volumes" and data[:2] == b"\x1f\x8b":
            name = "scan.nii.gz"
        answer = server.screen(name, data)
        assert answer["cases"] or answer["problems"] or kind == "zips"
        read += bool(answer["cases"])

    send()
    server.check()
    print(f"{kind}: {read} of {number} could be read")
    assert read > number / 100, "mutations leave nothing that can be read"


@pytest.mark.parametrize("kind", READERS)
def test_a_few_files(kind, tmp_path):
    feed(kind, 30, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("kind", READERS)
def test_thousands_of_files(kind, tmp_path):
    feed(kind, 1000, tmp_path)


# Requests.

NUMBERS = ["0", "1", "-1", "7", "99", "1e3", "0x1", "9" * 40, "nan", "", " 1", "\u0661", "1.0"]
TEXTS = st.one_of(st.sampled_from([*NUMBERS, "inf", "-inf", "1e400", "0.5"]), st.text(max_size=20))
PARTS = ["sessions", "KEY", "cases", "slices", "image.png", "heatmap.png", "contours.png"]
PARTS += ["overlay.png", "facts", "files", "table.csv", "report.pdf", "screen", "networks", "api"]
PARTS += ["openapi.json", "static", "page.js", "swagger", "docs", "health", "..", "."]
ROUTES = [
    *("/", "/docs", "/health", "/static/X", "/swagger/X", "/api/networks", "/api/openapi.json"),
    *("/api/sessions", "/api/sessions/KEY", "/api/sessions/X", "/api/screen"),
    *("/api/sessions/KEY/files", "/api/sessions/KEY/table.csv", "/api/sessions/KEY/cases/N"),
    "/api/sessions/KEY/cases/N/report.pdf",
    *(f"/api/sessions/KEY/cases/N/slices/N/{name}" for name in PARTS[4:9]),
]
METHODS = ["GET"] * 8 + ["POST"] * 3 + ["DELETE", "HEAD", "PUT", "PATCH", "OPTIONS", "TRACE", "X"]
QUERIES = ["name", "after", "prevalence", "centre", "width", "network", "output", "key", "token"]
HEADERS = ["Origin", "Sec-Fetch-Site", "Authorization", "Cookie", "Content-Type", "Accept"]
HEADERS += ["X-Forwarded-For", "X-Forwarded-Host", "Upgrade", "If-Modified-Since", "Range", "X"]
VALUES = ["null", "none", "same-origin", "cross-site", "http://evil", "websocket", "bytes=0-"]
VALUES += ["Bearer x", "multipart/form-data", "application/json", "a" * 5000, "*/*"]


@st.composite
def requests(draw):
    route = draw(st.sampled_from(ROUTES))
    if draw(st.integers(0, 4)) == 0:
        route = "/" + "/".join(draw(st.lists(st.sampled_from(PARTS), max_size=8)))
    path = ""
    for part in route.split("/")[1:]:
        if part == "N":
            part = draw(st.sampled_from(["0", "0", "0", "1", *NUMBERS]))
        elif part == "X":
            part = draw(TEXTS)
        path += "/" + urllib.parse.quote(part, safe=draw(st.sampled_from(["", "/.@:"])))
    query = draw(st.lists(st.tuples(st.sampled_from(QUERIES), TEXTS), max_size=3))
    text = urllib.parse.urlencode(query, errors="surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        text += draw(st.sampled_from(["&", "%", "%ff", "%00", "=", "?", ";", "+", "a" * 9000]))
    value = st.one_of(st.sampled_from(VALUES), st.text("abc=;,/ \x80\xff", max_size=20))
    headers = draw(st.lists(st.tuples(st.sampled_from(HEADERS), value), max_size=3))
    content = draw(st.one_of(st.none(), st.binary(max_size=100), st.just(pages.picture(side=20))))
    method = draw(st.sampled_from(METHODS))
    return method, path + ("?" + text if text else ""), content, headers


def ask_all(number, folder):
    server, counts = Server(), {}
    volume = pages.volume(folder / "a.nii.gz", slices=2, brightest=1).read_bytes()
    session = {}

    def open_session():
        _, content = server.ask("POST", "/api/sessions")
        session["key"] = json.loads(content)["session"]
        for name, file in (("a.png", pages.picture()), ("a.nii.gz", volume)):
            server.ask("POST", f"/api/sessions/{session['key']}/files?name={name}", file)

    @seed(1)
    @examples(number)
    @given(requests())
    def send(request):
        method, path, content, headers = request
        if server.ask("GET", f"/api/sessions/{session.get('key')}")[0] == 404:
            open_session()
        headers = [(name, value.encode("latin-1").strip()) for name, value in headers]
        status, _ = server.ask(method, path.replace("KEY", session["key"]), content, headers)
        counts[status] = counts.get(status, 0) + 1
        of_files = {206, 304, 416, 400} if path.startswith(("/static", "/swagger")) else set()
        assert status in DOCUMENTED | of_files, (status, request)

    send()
    server.check()
    print(dict(sorted(counts.items())))
    assert counts[200] > number / 20


def test_a_few_requests(tmp_path):
    ask_all(200, tmp_path)


@pytest.mark.long
def test_thousands_of_requests(tmp_path):
    ask_all(2500, tmp_path)


def test_nothing_outside_of_the_page_is_read(tmp_path):
    secret = pathlib.Path(__file__).resolve()
    server = Server()
    for way in ("..", "%2e%2e", "..%2f..", "%2e%2e%2f%2e%2e", "..\\..", "%5c..", ".%00."):
        for depth in range(1, 9):
            path = f"/static/{'/'.join([way] * depth)}{secret}"
            with contextlib.suppress(http.client.InvalidURL):
                assert server.ask("GET", path)[0] in (400, 404)
    server.check()
