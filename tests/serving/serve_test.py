"""The command: what it says of bad options, and that it serves a workdir."""

import datetime
import json
import os
import pathlib
import re
import signal
import socket
import sys
import threading

import pages
import pytest
import runs

pytest.importorskip("fastapi")
pytest.importorskip("fastapi_offline")
pytest.importorskip("uvicorn")
import uvicorn

from jaxcovid.serving import connections, server


def test_help(command):
    said = command("serve", "--help").stdout
    for option in ("--workdir", "--model", "--certificate", "--keep", "research only"):
        assert option in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "one of the arguments --workdir --model is required"),
        (["--workdir=a", "--engine=openvino"], "--engine=openvino needs the --model"),
        (["--workdir=a", "--key=b"], "--certificate and --key go together"),
        (["--workdir=a", "--upload_mb=0"], "must be 1 or more"),
        (["--workdir=no_such_folder"], "no_such_folder is not a workdir: it does not exist"),
        (["--model=no_such_folder"], "no_such_folder holds no manifest.json"),
    ],
)
def test_bad_options_are_explained(command, options, says):
    process = command("serve", *options, check=False)
    assert process.returncode
    assert says in process.stderr
    assert "Traceback" not in process.stderr


def test_a_token_that_can_be_guessed_is_refused(monkeypatch):
    monkeypatch.setenv(server.TOKEN, "short")
    with pytest.raises(ValueError, match="5 characters"):
        server.Place("0.0.0.0", 0).token()
    monkeypatch.delenv(server.TOKEN)
    assert server.Place("127.0.0.1", 0).token() == ""
    first, second = (server.Place("0.0.0.0", 0).token() for _ in range(2))
    assert len(first) >= 32
    assert first != second


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_an_address_for_others_is_one_that_they_can_open(host, capsys):
    server._announce(server.Place(host, 0), 8000, "secret", [])
    said = capsys.readouterr().out
    assert said == f"The page is at http://{socket.gethostname()}:8000/#token=secret\n"


async def healthy(scope, receive, send):
    """An application with nothing but the path that a health check asks for."""
    if scope["type"] == "http":
        status = 200 if scope["path"] == "/health" else 404
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("encrypted", [False, True])
def test_the_health_check_of_the_container(encrypted, tmp_path):
    """With a certificate and without; and it fails when nobody answers."""
    text = (pathlib.Path(__file__).parents[2] / "launch" / "serve.Dockerfile").read_text()
    listening = socket.create_server(("127.0.0.1", 0))
    port = str(listening.getsockname()[1])
    check = json.loads(re.search(r"HEALTHCHECK .*CMD (.*)", text)[1].replace("8000", port))
    options = {}
    if encrypted:
        options = {f"ssl_{name}file": str(tmp_path / name) for name in ("key", "cert")}
        runs.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a"),
                *("-keyout", options["ssl_keyfile"], "-out", options["ssl_certfile"]),
            ]
        )
    config = uvicorn.Config(
        healthy, http=connections.ImpatientProtocol, log_config=None, lifespan="off", **options
    )
    serving = uvicorn.Server(config)
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        process = runs.run(check)
    finally:
        serving.should_exit = True
        thread.join(30)
        listening.close()
    assert process.returncode == 0, process.stderr
    assert runs.run(check).returncode == 1


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(server, "_NEEDED", ("fastapi", "no_such_library"))
    with pytest.raises(ValueError, match=r"no_such_library: pip install 'jaxcovid\[serve\]'"):
        server.check_installed()


def test_a_workdir_is_served_until_it_is_interrupted(trained, command, tmp_path):
    words = [sys.executable, "-m", "jaxcovid.serve", f"--workdir={trained}", "--port=0"]
    process, address = pages.start(words=words, env={**os.environ, "TMPDIR": str(tmp_path)})
    client = pages.client(address)
    (network,) = client.networks()
    assert network["trained_on"] == "folder/blobs"
    assert network["prevalence"] is not None
    (case,) = client.screen(pages.picture())["cases"]
    (finding,) = case["findings"]
    assert finding["meaning"]["probability"] == pytest.approx(finding["probabilities"]["COVID-19"])
    port = re.search(r":(\d+)/", address)[1]
    taken = command("serve", f"--workdir={trained}", f"--port={port}", check=False)
    assert taken.returncode == 1
    assert "Traceback" not in taken.stderr
    assert port in taken.stderr
    process.send_signal(signal.SIGINT)
    assert process.wait(60) in (0, 130)
    with socket.socket() as probe, pytest.raises(OSError, match="refused"):
        probe.connect(("127.0.0.1", int(port)))
    assert not list(tmp_path.iterdir())
    said = [line for line in process.said if not line.startswith("The page is at")]
    events = [json.loads(line) for line in said]  # a line of the log is an object, whatever it says
    assert {"log", "serving", "request"} <= {event["event"] for event in events}
    for event in events:
        assert datetime.datetime.fromisoformat(event["time"]).tzinfo


def test_scores_are_those_of_the_checkpoint_that_is_served(tmp_path):
    def result(place, step, **more):
        folder = tmp_path / "evaluation" / place
        folder.mkdir(parents=True)
        auc = {"value": 0.9, "low": 0.8, "high": 0.95}
        content = {"auc": auc, "n": 20, "run": {"step": step}, **more}
        (folder / "metrics.json").write_text(json.dumps(content))

    result("test", 7)
    result("before", 6)
    result("several", 7, runs={})
    result("logistic", 7, classifier="logistic")
    dice = {"lesion": {"dice": {"value": 0.7, "low": 0.6, "high": 0.8}}}
    result("masks", 7, auc=None, segmentation={"scores": dice})
    (tmp_path / "evaluation" / "damaged").mkdir()
    (tmp_path / "evaluation" / "damaged" / "metrics.json").write_text("{")
    assert server._scores(tmp_path, 7) == (
        "Dice of the lesion 0.700 (95 % interval 0.600 to 0.800) on masks, 20 images",
        "AUC 0.900 (95 % interval 0.800 to 0.950) on test, 20 images",
    )
