"""The DICOM node, with real clients on the loopback address, and the command that starts it."""

import contextlib
import io
import json
import os
import pathlib
import re
import signal
import socket
import struct
import sys
import threading
import time

import cv2
import numpy as np
import pydicom
import pytest
import runs
from dicom_series import (
    NAME,
    PATIENT,
    Bright,
    assert_valid,
    ct_slice,
    left_in,
    open_answers,
    read_rows,
    real_slices,
    series,
)
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from jaxcovid.listening import listener, service
from jaxcovid.listening.inbox import Inbox, InboxLimits
from jaxcovid.listening.listener import Address
from jaxcovid.listening.screener import Screener
from jaxcovid.listening.sender import Peer, Sender
from jaxcovid.weights.export.export import export

pynetdicom = pytest.importorskip("pynetdicom")
pytest.importorskip("highdicom")
GOLDEN_WORKDIR = pathlib.Path(__file__).parents[1] / "golden" / "workdir"
CT = "1.2.840.10008.5.1.4.1.1.2"
ECHO = "1.2.840.10008.1.1"


@contextlib.contextmanager
def node(results, *, allowed=(), limits=None, **options):
    """An inbox behind a node on a free port; gives both."""
    inbox = Inbox(results, open_answers(results, **options), quiet_s=0, limits=limits)
    address = Address(port=0, allowed=allowed)
    object_bytes = (limits or InboxLimits()).object_bytes
    with listener.listening(inbox, address, object_bytes=object_bytes) as port:
        yield inbox, port


@contextlib.contextmanager
def client(port, *, syntax=ExplicitVRLittleEndian, calling="SCANNER", called="JAXCOVID"):
    entity = pynetdicom.AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 30
    entity.add_requested_context(CT, syntax)
    entity.add_requested_context(ECHO)
    association = entity.associate("127.0.0.1", port, ae_title=called)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def send(association, data):
    """The status of one C-STORE, and what the node says of it."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    status = association.send_c_store(dataset)
    return status.Status, status.get("ErrorComment")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless])
def test_what_is_sent_is_stored_as_it_came_and_answered(syntax, tmp_path):
    compressed = None if syntax == ExplicitVRLittleEndian else syntax
    files = series("a", syntax=compressed)
    with node(tmp_path) as (inbox, port), client(port, syntax=syntax) as association:
        assert association.send_c_echo().Status == 0
        assert [send(association, data) for data in files] == [(0, None)] * 3
        stored = [path.read_bytes() for path in (tmp_path / "inbox").glob("*/*")]
        sent = {pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID: data for data in files}
        for data in stored:
            dataset = pydicom.dcmread(io.BytesIO(data))
            assert dataset.file_meta.TransferSyntaxUID == syntax
            assert (
                dataset.PixelData
                == pydicom.dcmread(io.BytesIO(sent[dataset.SOPInstanceUID])).PixelData
            )
        assert inbox.screen_due() == 1
    (row,) = read_rows(tmp_path)
    assert (row["images"], row["error"]) == ("3", "")
    expected = sum(Bright().read_gray(data).mean() for data in files) / 255 / 3
    assert float(row["probability"]) == pytest.approx(expected, abs=1e-6)


def test_two_associations_at_once_with_a_series_each(tmp_path):
    with node(tmp_path) as (inbox, port), client(port) as one, client(port) as two:
        for a, b in zip(series("a"), series("b"), strict=True):
            assert send(one, a) == send(two, b) == (0, None)
        assert inbox.waiting == 2
        assert inbox.screen_due() == 2
    rows = read_rows(tmp_path)
    assert [row["images"] for row in rows] == ["3", "3"]
    assert len({row["series"] for row in rows}) == 2


def test_names_that_do_not_match_are_rejected(tmp_path, caplog):
    with node(tmp_path, allowed=("SCANNER",)) as (_, port):
        for names in ({"called": "OTHER"}, {"calling": "STRANGER"}):
            with client(port, **names) as association:
                assert association.is_rejected
        assert caplog.text.count("Refused a connection of AE") == 2
        with client(port) as association:
            assert association.is_established


def test_an_open_address_needs_names_of_callers():
    for host in ("0.0.0.0", "192.168.1.20", "::", "localhost.example.org"):
        with pytest.raises(ValueError, match="--allow=AE1,AE2"):
            Address(host=host)
        assert Address(host=host, allowed=("CT1",)).allowed
    for host in ("127.0.0.1", "::1", "localhost"):
        assert not Address(host=host).allowed
    for title in ("", "x" * 17, " a", "a\\b", "ä", "a\n"):
        with pytest.raises(ValueError, match="is no AE title"):
            Address(ae_title=title)
    with pytest.raises(ValueError, match="port 65536"):
        Address(port=65536)


def test_refused_objects_get_the_right_status_and_the_next_one_is_taken(tmp_path, caplog):
    limits = InboxLimits(series_objects=2, object_bytes=20_000)
    with node(tmp_path, limits=limits) as (_, port), client(port) as association:
        short = pydicom.dcmread(io.BytesIO(ct_slice("a", 5)))
        short.PixelData = short.PixelData[:-100]
        status = association.send_c_store(short)
        assert 0xC000 <= status.Status <= 0xCFFF
        assert status.ErrorComment.startswith("the DICOM element PixelData")
        assert 0xC000 <= send(association, ct_slice("a", Modality="DX"))[0] <= 0xCFFF
        large = send(association, ct_slice("a", ImageComments="x" * 20_000))
        assert large == (0xA700, "an object of more than 20,000 bytes")
        assert [send(association, data)[0] for data in series("a")] == [0, 0, 0xA700]
        assert send(association, ct_slice("b"))[0] == 0
    assert len(left_in(tmp_path, "inbox")) == 3
    for canary in (NAME, PATIENT):
        assert canary not in caplog.text


def test_who_sends_without_end_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(listener, "_SLACK_BYTES", 100_000)
    limits = InboxLimits(object_bytes=100_000)
    with node(tmp_path, limits=limits) as (_, port):
        with client(port) as association:
            dataset = pydicom.dcmread(io.BytesIO(ct_slice("a", ImageComments="x" * 10**6)))
            assert "Status" not in association.send_c_store(dataset)
            deadline = time.monotonic() + 60
            while association.is_established and time.monotonic() < deadline:
                time.sleep(0.01)
            assert not association.is_established
        with client(port) as association:  # many small ones are no harm
            assert {send(association, ct_slice("a", n % 9))[0] for n in range(100)} == {0}
        # A PDU that announces four gigabytes is not waited for.
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(struct.pack(">BBL", 1, 0, 2**32 - 1) + b"\0" * 1000)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(1000):
                    pass


def test_a_port_that_is_taken_is_named(tmp_path):
    with node(tmp_path) as (inbox, port):
        message = f"cannot listen on 127.0.0.1:{port} .*another --port"
        with (
            pytest.raises(OSError, match=message),
            listener.listening(inbox, Address(port=port), object_bytes=1),
        ):
            pass


def test_noise_stops_nothing(tmp_path):
    with node(tmp_path) as (_, port):
        for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\1\0\0\0\0\x44" + b"\xff" * 68, b"\4\0"):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(noise)
        with client(port) as association:
            assert association.send_c_echo().Status == 0


@contextlib.contextmanager
def archive(status=0x0000):
    """A node that collects what it gets and answers with a status; gives a list and the port."""
    got = []

    def store(event):
        got.append(event.dataset)
        return status

    entity = pynetdicom.AE(ae_title="PACS")
    for kind in ("7", "66.4"):
        entity.add_supported_context(f"1.2.840.10008.5.1.4.1.1.{kind}")
    handlers = [(pynetdicom.evt.EVT_C_STORE, store)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield got, server.server_address[1]
    finally:
        server.shutdown()


def test_answers_are_sent_and_kept_while_nobody_takes_them(tmp_path):
    inbox = Inbox(tmp_path, open_answers(tmp_path, send=True), quiet_s=0)
    for data in series("a"):
        meta = pydicom.dcmread(io.BytesIO(data)).file_meta
        inbox.receive(data, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID)
    inbox.screen_due()
    with archive(0xA700) as (_, port):
        sender = Sender(tmp_path, Peer("PACS", "127.0.0.1", port), ae_title="JAXCOVID")
        assert sender.send() == 1
    assert sender.send() == 1, "nobody is there"
    with archive() as (got, port):
        sender = Sender(tmp_path, Peer("PACS", "127.0.0.1", port), ae_title="JAXCOVID")
        assert sender.send() == 0
        assert sender.send() == 0
        assert sorted(dataset.Modality for dataset in got) == ["OT", "SEG"]
        assert {dataset.PatientID for dataset in got} == {PATIENT}
    assert len(list((tmp_path / "answers").glob("*/*.dcm"))) == 2


def test_peers_are_read_from_text():
    assert Peer.parse("PACS@10.0.0.1:104") == Peer("PACS", "10.0.0.1", 104)
    assert Peer.parse("MY PACS@[::1]:11112") == Peer("MY PACS", "::1", 11112)
    for bad in ("PACS", "PACS@host", "@host:1", "PACS@host:0", "PACS@host:99999", "P@a b:1"):
        with pytest.raises(ValueError, match="no AE"):
            Peer.parse(bad)


def test_without_a_listener_all_is_answered_and_sent(tmp_path, monkeypatch):
    inbox = Inbox(tmp_path, open_answers(tmp_path), quiet_s=0)
    data = ct_slice("a")
    meta = pydicom.dcmread(io.BytesIO(data)).file_meta
    inbox.receive(data, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID)
    monkeypatch.setattr(service, "_PAUSE_S", 0)
    screener = Screener(Bright(), "bright")
    with archive() as (got, port):
        peer = Peer("PACS", "127.0.0.1", port)
        service.run(screener, service.Service(tmp_path, peer=peer, quiet_s=0))
        assert len(got) == 2
    with pytest.raises(ValueError, match="threshold 'no_such' is not one of"):
        service.run(Screener(Bright(), "bright", "no_such"), service.Service(tmp_path))


def test_a_sender_in_a_thread_sends_what_comes(tmp_path):
    answers = open_answers(tmp_path, send=True)
    inbox, stop = Inbox(tmp_path, answers, quiet_s=0), threading.Event()
    with archive() as (got, port):
        sender = Sender(tmp_path, Peer("PACS", "127.0.0.1", port), ae_title="JAXCOVID")
        thread = threading.Thread(target=sender.run, args=(answers, stop), daemon=True)
        thread.start()
        for name in ("a", "b"):
            data = ct_slice(name)
            meta = pydicom.dcmread(io.BytesIO(data)).file_meta
            inbox.receive(data, meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID)
            inbox.screen_due()
            deadline = time.monotonic() + 60
            while sender.unsent:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        stop.set()
        thread.join(60)
        assert not thread.is_alive()
        assert len(got) == 4


def test_without_pynetdicom_the_message_names_the_extra(monkeypatch):
    monkeypatch.setattr(listener.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'jaxcovid\[listen\]'"):
        listener.check_installed()


# The command.


def test_help(command):
    said = command("listen", "--help", check=False).stdout
    assert "python -m jaxcovid.listen" in said
    assert "--workdir" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workdir=nowhere",), "not a workdir"),
        (("--model=nowhere",), "nowhere holds no manifest.json"),
        (("--workdir=nowhere", "--host=0.0.0.0"), "--allow=AE1,AE2"),
        (("--workdir=nowhere", "--ae_title=" + "x" * 17), "is no AE title"),
        (("--workdir=nowhere", "--send_to=PACS"), "'PACS' is no AE@host:port"),
        (("--workdir=nowhere", "--quiet_s=-1"), "must be 0 or more"),
        (("--workdir=nowhere", "--engine=openvino"), "needs the --model of an export"),
    ],
)
def test_bad_input_is_one_clear_message(arguments, message, command, tmp_path):
    process = command("listen", f"--results={tmp_path / 'r'}", *arguments, check=False)
    assert process.returncode != 0
    assert message in process.stderr
    assert "Traceback" not in process.stderr


def test_answers_of_an_export_name_its_checkpoint(trained, command, tmp_path):
    """So that a series that comes again after a new export gets a new answer."""
    pytest.importorskip("onnxruntime")
    exported = export(trained, "onnx", output=tmp_path / "exported")
    watched, results = tmp_path / "watched", tmp_path / "results"
    watched.mkdir()
    cv2.imwrite(str(watched / "a.png"), np.random.default_rng(0).integers(0, 256, (64, 64)))
    words = (f"--watch={watched}", f"--results={results}", "--quiet_s=0", "--once")
    process = command("listen", f"--model={exported}", *words)
    step = json.loads((exported / "manifest.json").read_text())["step"]
    assert read_rows(results)[0]["network"] == f"exported, step {step}"
    for line in process.stderr.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line), "the log has dates"


def start(results, *more):
    """The command on a free port, and that port once it listens."""
    log = (results.parent / "log").open("a+")
    process = runs.popen(
        [
            *(sys.executable, "-m", "jaxcovid.listen", f"--workdir={GOLDEN_WORKDIR}"),
            *(f"--results={results}", "--port=0", "--quiet_s=1", *more),
        ],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        stderr=log,
    )
    process.log = log
    runs.wait(lambda: re.search(r"Listening as .*:(\d+);", read_log(results)), process)
    return process, int(re.findall(r"Listening as .*:(\d+);", read_log(results))[-1])


def read_log(results):
    return (results.parent / "log").read_text()


def test_the_command_answers_and_survives_a_kill(tmp_path):
    """Killed once the first series is on the disk; started again it answers that one and others."""
    results = tmp_path / "results"
    process, port = start(results)
    with client(port) as association:
        for number in range(3):
            assert send(association, ct_slice("a", number)) == (0, None)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    (results.parent / "log").write_text("")
    process, port = start(results)
    second = runs.run(
        [
            *(sys.executable, "-m", "jaxcovid.listen", f"--workdir={GOLDEN_WORKDIR}", "--once"),
            f"--results={results}",
        ],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
    )
    assert "is in use by another jaxcovid.listen" in second.stderr
    with client(port) as association:
        assert send(association, ct_slice("b")) == (0, None)
    runs.wait(lambda: len(read_rows(results)) == 2, process)
    runs.wait(lambda: not left_in(results, "working", "inbox"), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert sorted(row["images"] for row in read_rows(results)) == ["1", "3"]
    for path in (results / "answers").glob("*/secondary_capture.dcm"):
        assert_valid(path, "SCImage")
    said = read_log(results)
    assert "Traceback" not in said
    for canary in (NAME, PATIENT, "Canary"):
        assert canary not in said


def test_real_compressed_slices_come_through_the_node(tmp_path):
    paths = real_slices()
    (syntax,) = {pydicom.dcmread(p, stop_before_pixels=True).file_meta[2, 16].value for p in paths}
    with node(tmp_path) as (inbox, port), client(port, syntax=syntax) as association:
        for path in paths:
            assert send(association, path.read_bytes()) == (0, None)
        count = inbox.waiting
        assert inbox.screen_due() == count
    rows = read_rows(tmp_path)
    assert sum(int(row["images"]) for row in rows) == len(paths)
    assert not left_in(tmp_path, "failed")
