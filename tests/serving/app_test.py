"""What programs can ask of the page's server, and what it refuses."""

import csv
import io
import json
import time
import zipfile

import cv2
import numpy as np
import pages
import pytest

pytest.importorskip("fastapi")
from dicom_series import ct_slice, series
from fastapi.testclient import TestClient
from page_server import Bright

from jaxcovid.data.labels import Task
from jaxcovid.serving.app import make_app
from jaxcovid.serving.limits import Limits
from jaxcovid.serving.served_networks import Networks, Served

HOME = "http://127.0.0.1:8000"
LIMITS = Limits(upload_bytes=2**21, session_bytes=2**23, session_files=12, volume_slices=20)


class Findings(Bright):
    """A network for two findings of films."""

    task = Task("multilabel", ("Cardiomegaly", "Effusion"))
    modality = ""
    segments = False
    training_facts = None

    def __init__(self):
        pass

    def probabilities(self, images):
        return np.array([[0.2, 0.7] for _ in images])


def networks(*names):
    return Networks([Served(name, Bright(), "made-up slices", 7) for name in names])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def client(scratch):
    with TestClient(make_app(networks("a", "b"), limits=LIMITS, folder=scratch), HOME) as client:
        yield client


@pytest.fixture
def session(client):
    key = client.post("/api/sessions").json()["session"]
    yield f"/api/sessions/{key}"
    client.delete(f"/api/sessions/{key}")


def screen(client, content, name="scan.png", **query):
    answer = client.post("/api/screen", params={"name": name, **query}, content=content)
    assert answer.status_code == 200, answer.text
    return answer.json()


def send(client, session, content, name):
    answer = client.post(f"{session}/files", params={"name": name}, content=content)
    assert answer.status_code == 202, answer.text
    return wait(client, session)


def wait(client, session):
    """The session when all its files are settled."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        view = client.get(session).json()
        if not set(view["files"]) - {"done", "failed", "left out"}:
            return view
        time.sleep(0.02)
    raise AssertionError(view)


def pixels(answer):
    assert answer.status_code == 200, answer.text
    return cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)


def test_a_picture_is_screened_at_once_and_nothing_of_it_is_kept(client, scratch):
    content = pages.picture()
    gray = cv2.imdecode(np.frombuffer(content, np.uint8), 0)
    answer = screen(client, content, prevalence=0.05)
    (case,) = answer["cases"]
    assert [each["network"] for each in case["findings"]] == ["a", "b"]
    finding = case["findings"][0]
    assert finding["probabilities"]["COVID-19"] == pytest.approx(gray.mean() / 255)
    assert finding["decision"] == "not COVID-19"
    odds = gray.mean() / (255 - gray.mean())  # Bayes: calibrated where 1 of 4 is positive
    moved = odds * (0.05 / 0.95) / (0.25 / 0.75)
    assert finding["meaning"]["probability"] == pytest.approx(moved / (1 + moved))
    dark, bright = (gray < 60).sum(), (gray > 200).sum()
    share = bright / (dark + bright)
    assert float(finding["involvement"]["involved"]) == pytest.approx(share, abs=1e-4)
    assert not list(scratch.iterdir())


def test_slices_of_a_volume_are_seen_through_any_window(client, session, tmp_path):
    content = pages.volume(tmp_path / "scan.nii.gz").read_bytes()
    view = send(client, session, content, "scan.nii.gz")
    (summary,) = view["cases"]
    assert (summary["kind"], summary["slices"], summary["finished"]) == ("volume", 12, 12)
    case = client.get(f"{session}/cases/0").json()
    assert case["unit"] == "HU"
    assert case["window"] == [-600, 1500]
    finding = case["findings"][0]
    brightest = int(np.argmax(finding["slice_probabilities"]))
    assert finding["most_suspicious"] == case["numbers"][brightest] == 7
    mean = np.mean(finding["slice_probabilities"])
    assert finding["probabilities"]["COVID-19"] == pytest.approx(mean)
    assert finding["meaning"] is None  # nothing is calibrated for a mean
    path = f"{session}/cases/0/slices/7/image.png"
    seen = pixels(client.get(path))
    bone = pixels(client.get(path, params={"centre": 400, "width": 100}))
    assert seen.mean() / 255 == pytest.approx(finding["slice_probabilities"][brightest], abs=1e-6)
    assert bone.max() == 0  # nothing of it is denser than 350
    assert pixels(client.get(path, params={"centre": -1000, "width": 10})).min() == 255


def test_layers_lie_over_the_slice(client, session):
    send(client, session, pages.picture(), "scan.png")
    path = f"{session}/cases/0/slices/0"
    gray = pixels(client.get(f"{path}/image.png"))
    heat = pixels(client.get(f"{path}/heatmap.png", params={"network": 1}))
    assert heat.shape == (*gray.shape, 4)
    assert set(heat[..., 3].ravel()) == {128}  # as opaque as the heatmap is high
    outline = pixels(client.get(f"{path}/contours.png"))
    drawn = outline[..., 3] > 0
    orange = (outline == (0x00, 0x9F, 0xE6, 255)).all(-1)
    assert orange.any()
    inside = gray > 200
    assert not (orange & inside).any()  # an outline lies around what it is of
    touched = cv2.dilate(orange.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert (touched & inside).any()
    whole = pixels(client.get(f"{path}/overlay.png"))
    assert whole[64:].any()  # below it the notice
    assert (whole[:64][~drawn] != gray[~drawn][:, None]).any()
    bare = pixels(client.get(f"{path}/overlay.png", params={"heatmap": 0, "contours": False}))
    assert (bare[:64] == gray[..., None]).all()
    dark = {"heatmap": 0, "contours": False, "centre": 50, "width": 20}
    seen = pixels(client.get(f"{path}/overlay.png", params=dark))[:64]
    assert (seen[gray > 70] == 255).all()
    low = pixels(client.get(f"{path}/image.png", params={"centre": 50, "width": 20}))
    assert low.max() == 255
    assert (low[gray > 70] == 255).all()
    for wrong in ("heatmap.png?network=9", "contours.png?network=-1", "heatmap.png?output=3"):
        assert client.get(f"{path}/{wrong}").status_code == 404
    assert client.get(f"{session}/cases/0/slices/5/image.png").status_code == 404
    assert client.get(f"{session}/cases/3").status_code == 404


def test_a_zip_file_is_many_files_of_which_bad_ones_are_named(client, session):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a/1.png", pages.picture(seed=1))
        archive.writestr("../../etc/2.png", pages.picture(seed=2))
        archive.writestr("__MACOSX/._1.png", b"\0")
        archive.writestr("a/.hidden.png", b"\0")
        archive.writestr("a/text.png", b"no image")
        archive.writestr("a/inner.zip", packed.getvalue())
    view = send(client, session, packed.getvalue(), "all.zip")
    assert sorted(case["title"] for case in view["cases"]) == ["a/1.png", "etc/2.png"]
    problems = {each["name"]: each["error"] for each in view["problems"]}
    assert "no readable image" in problems["a/text.png"]
    assert "within a zip file" in problems["a/inner.zip"]
    assert view["files"] == {"done": 3, "failed": 2}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda archive: archive.writestr("bomb.npy", bytes(2**24)), "unpacked"),
        (
            lambda archive: [archive.writestr(f"{i}.png", b"x") for i in range(20)],
            "more than 11 files",
        ),
    ],
)
def test_a_zip_file_beyond_the_limits_is_refused_as_a_whole(client, session, make, says):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        make(archive)
    view = send(client, session, packed.getvalue(), "bomb.zip")
    assert says in view["problems"][0]["error"]
    assert view["cases"] == []
    damaged = send(client, session, packed.getvalue()[:-30], "cut.zip")
    assert "damaged zip" in damaged["problems"][1]["error"]


def test_files_of_a_series_are_one_case_from_feet_to_head(client, session):
    for number, content in enumerate(reversed(series("one", 3))):
        view = send(client, session, content, f"{number}.dcm")
    (case,) = view["cases"]
    assert (case["kind"], case["slices"]) == ("series", 3)
    assert client.get(f"{session}/cases/0").json()["numbers"] == [2, 1, 0]


def test_slices_at_one_height_keep_the_order_in_which_they_were_sent(client, session):
    files = [*series("one", 3), ct_slice("one", 1, InstanceNumber=9), ct_slice("one", 0)]
    for number, content in enumerate(files):
        send(client, session, content, f"{number}.dcm")
    assert client.get(f"{session}/cases/0").json()["numbers"] == [0, 4, 1, 3, 2]


def test_a_series_of_one_slice_has_a_meaning(client, session):
    send(client, session, ct_slice("one"), "1.dcm")
    assert client.get(f"{session}/cases/0").json()["findings"][0]["meaning"]
    send(client, session, ct_slice("one", 1), "2.dcm")
    assert client.get(f"{session}/cases/0").json()["findings"][0]["meaning"] is None


def test_networks_for_findings_are_asked_for_the_highest(tmp_path):
    network = Findings()
    networks = Networks([Served("findings", network, "made-up films", 7)])
    with TestClient(make_app(networks, limits=LIMITS, folder=tmp_path), HOME) as client:
        (view,) = client.get("/api/networks").json()
        assert view["threshold"] is None
        key = f"/api/sessions/{client.post('/api/sessions').json()['session']}"
        view = send(client, key, pages.picture(), "film.png")
        assert view["cases"][0]["decisions"] == ["Effusion"]
        assert view["cases"][0]["probabilities"] == [0.7]
        (finding,) = client.get(f"{key}/cases/0").json()["findings"]
        assert finding["slice_probabilities"] == [0.7]
        row, whole = csv.DictReader(io.StringIO(client.get(f"{key}/table.csv").text))
        for each in (row, whole):
            assert each["probability"] == each["decision"] == ""
            assert each["probabilities"] == "Cardiomegaly 0.200000; Effusion 0.700000"
        assert client.get(f"{key}/cases/0/report.pdf").content.startswith(b"%PDF")


def test_the_threshold_is_that_of_the_command(tmp_path):
    served = Served("a", Bright(), "made-up slices", 7, threshold="0.3")
    app = make_app(Networks([served]), limits=LIMITS, folder=tmp_path)
    with TestClient(app, HOME) as client:
        (case,) = screen(client, pages.picture())["cases"]
        assert case["findings"][0]["decision"] == "COVID-19"
        assert case["findings"][0]["threshold"] == 0.3


def test_what_is_too_much_is_refused_with_its_number(client, session):
    answer = client.post(f"{session}/files", content=bytes(2**21 + 1))
    assert answer.status_code == 413
    assert "2,097,152 bytes" in answer.json()["detail"]
    for _ in range(11):
        assert client.post(f"{session}/files", content=b"x").status_code == 202
    answer = client.post(f"{session}/files", content=b"x")
    assert answer.status_code == 413
    assert "12 files" in answer.json()["detail"]
    tall = np.zeros((21, 32, 32), np.int16)
    content = io.BytesIO()
    np.save(content, tall - 900)
    answer = screen(client, content.getvalue(), "tall.npy")
    assert "more than 20 slices" in answer["problems"][0]["error"]


def test_a_session_is_seen_by_who_knows_its_key_and_ends_with_it(client, session, scratch):
    send(client, session, pages.picture(), "../../scan.png")
    kept = [path for path in scratch.rglob("*") if path.is_file()]
    assert kept
    assert all(path.name.startswith(("file", "gray_", "masks_")) for path in kept)
    assert client.get("/api/sessions/another").status_code == 404
    assert client.delete(session).status_code == 204
    assert client.get(session).status_code == 404
    assert not list(scratch.iterdir())


def test_news_come_when_there_are_some(client, session):
    version = send(client, session, pages.picture(), "scan.png")["version"]
    begun = time.monotonic()
    assert client.get(session, params={"after": version, "wait": 0.3}).json()["version"] == version
    assert time.monotonic() - begun >= 0.3
    begun = time.monotonic()
    assert client.get(session, params={"after": version - 1, "wait": 20}).status_code == 200
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:8000", "origin": "http://evil.example:8000"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_pages_of_other_sites_can_do_nothing(client, headers):
    assert client.post("/api/sessions", headers=headers).status_code == 403


def test_a_browser_may_load_nothing_from_elsewhere(client):
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    for path in ("/", "/docs"):
        text = client.get(path).text
        assert "http://" not in text
        assert "https://" not in text
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/static/%2e%2e/app.py").status_code == 404


def test_programs_can_read_what_is_sent_and_what_comes(client):
    said = client.get("/api/openapi.json").json()
    assert {"type": "http", "scheme": "bearer"}.items() <= said["components"]["securitySchemes"][
        "token"
    ].items()
    for path in ("/api/screen", "/api/sessions/{key}/files"):
        asked = said["paths"][path]["post"]
        assert asked["security"] == [{"token": []}]
        assert asked["requestBody"]["content"] == {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
        }
    kinds = {".png": "image/png", ".pdf": "application/pdf", ".csv": "text/csv"}
    found = []
    for path, methods in said["paths"].items():
        for asked in methods.values():
            content = [*asked["responses"].get("200", {}).get("content", {"none": {}})]
            expected = kinds.get(path[-4:], "application/json")
            assert content in ([expected], ["none"]), path
            found += content
    assert {*kinds.values()} < {*found}
    assert found.count("image/png") == 4


def test_with_a_token_only_who_knows_it_is_answered(tmp_path):
    app = make_app(networks("a"), limits=LIMITS, folder=tmp_path, token="secret-of-this-test")
    with TestClient(app, "http://screening.example") as client:
        assert client.get("/").status_code == 200
        for given in ("", "Bearer wrong", "Bearer secret-of-this-tes"):
            assert client.get("/api/networks", headers={"authorization": given}).status_code == 401
        known = {"authorization": "Bearer secret-of-this-test"}
        assert client.get("/api/networks", headers=known).status_code == 200


def test_a_table_a_picture_and_a_report_leave_the_page(client, session):
    send(client, session, pages.picture(), "=cmd|x.png")
    rows = list(csv.DictReader(io.StringIO(client.get(f"{session}/table.csv").text)))
    assert [(row["slice"], row["network"]) for row in rows] == [
        ("1", "a"), ("1", "b"), ("all", "a"), ("all", "b"),
    ]  # fmt: skip
    assert rows[0]["probability"] == rows[2]["probability"]
    assert rows[0]["file"] == "'=cmd|x.png"  # no formula of a spreadsheet
    report = client.get(f"{session}/cases/0/report.pdf", params={"prevalence": 0.1})
    assert report.headers["content-type"] == "application/pdf"
    assert report.content.startswith(b"%PDF")
    assert report.content.count(b"/Type /Page ") == 2


def test_facts_that_went_with_the_class_are_named(client, session):
    send(client, session, pages.picture(), "scan.png")
    facts = client.get(f"{session}/cases/0/slices/0/facts").json()
    assert facts
    by_name = {fact["name"]: fact for fact in facts}
    assert by_name["width"]["share"] == 1  # 64 px, beyond all: nearest are those with the class
    assert all(fact["overall"] == 0.5 for fact in facts)
    assert {"name", "unit", "value", "count", "auc"} <= set(facts[0])


def test_what_was_asked_for_is_kept(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    app = make_app(networks("a"), limits=LIMITS, folder=scratch, keep=kept)
    with TestClient(app, HOME) as client:
        key = client.post("/api/sessions").json()["session"]
        send(client, f"/api/sessions/{key}", pages.picture(), "scan.png")
    assert sorted(path.suffix for path in kept.iterdir()) == [".csv", ".pdf"]


def test_a_page_that_was_left_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxcovid.serving.app._SWEEP_S", 0.05)
    limits = Limits(idle_s=0.3, sessions=1)
    with TestClient(make_app(networks("a"), limits=limits, folder=tmp_path), HOME) as client:
        key = client.post("/api/sessions").json()["session"]
        send(client, f"/api/sessions/{key}", pages.picture(), "scan.png")
        assert client.post("/api/sessions").status_code == 413
        time.sleep(0.8)
        assert client.get(f"/api/sessions/{key}").status_code == 404
        assert not list(tmp_path.iterdir())
        assert client.post("/api/sessions").status_code == 200


def test_a_network_that_fails_stops_nobody(client, session, monkeypatch):
    def fail(self, images):
        if any(self.read_gray(image).mean() > 200 for image in images):
            raise RuntimeError("no such program")
        return np.full((len(images), 1), 0.25)

    monkeypatch.setattr(Bright, "probabilities", fail)
    view = send(client, session, pages.picture(level=230), "bad.png")
    assert "no such program" in view["problems"][0]["error"]
    view = send(client, session, pages.picture(), "good.png")
    assert view["cases"][-1]["probabilities"] == [0.25, 0.25]


def test_networks_that_cannot_be_compared_are_refused():
    other = Bright()
    other.modality = "X-ray"
    with pytest.raises(ValueError, match="CT and X-ray"):
        Networks([Served("a", Bright(), "", 1), Served("b", other, "", 1)])
    with pytest.raises(ValueError, match="rename"):
        networks("a", "a")


def test_the_log_names_nobody(client, session, caplog):
    caplog.set_level("INFO")
    send(client, session, pages.picture(), "DOE^JANE.png")
    lines = [json.loads(record.message) for record in caplog.records if record.message[0] == "{"]
    assert {line["event"] for line in lines} == {"request", "file"}
    text = "".join(map(str, lines))
    assert "DOE" not in text
    assert session.rpartition("/")[2] not in text
