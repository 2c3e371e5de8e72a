"""Servers and decoders that are killed leave nothing behind, and work again."""

import os
import signal
import threading
import time

import pages
import psutil
import pytest

pytest.importorskip("fastapi")


def wait(until, seconds=30):
    deadline = time.monotonic() + seconds
    while not (found := until()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def screens(address):
    (case,) = pages.client(address).screen(pages.picture(), name="a.png")["cases"]
    return case["findings"][0]["probabilities"]["COVID-19"] == pytest.approx(0.459284, abs=1e-5)


def start(folder, *options):
    return pages.start("one", *options, env={**os.environ, "TMPDIR": str(folder)})


def test_a_decoder_that_is_killed_loses_no_answer(tmp_path):
    process, address = start(tmp_path)
    for each in pages.decoders(process):  # with nothing to do
        each.kill()
    assert screens(address)
    content = pages.volume(tmp_path / "a.nii.gz", slices=400, side=256).read_bytes()
    answers = []
    client = pages.client(address)
    thread = threading.Thread(
        target=lambda: answers.append(client.screen(content, name="a.nii.gz"))
    )
    thread.start()
    (folder,) = tmp_path.glob("jaxcovid-serve-*")
    wait(lambda: list(folder.rglob("gray_0")))  # it is at work
    for each in pages.decoders(process):
        each.kill()
    thread.join(60)
    (case,) = answers[0]["cases"]
    assert (case["summary"]["finished"], case["summary"]["failed"]) == (400, 0)
    assert screens(address)


def test_a_server_that_is_killed_takes_all_with_it(tmp_path):
    process, address = start(tmp_path)
    other, other_address = start(tmp_path)
    assert screens(address)
    folders = set(tmp_path.glob("jaxcovid-serve-*"))
    assert len(folders) == 2  # each its own
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in folders)
    client = pages.client(address)
    key = client._ask("POST", "/api/sessions", b"")[12:-2].decode()
    client._ask("POST", f"/api/sessions/{key}/files?name=a.png", pages.picture())
    assert any(path.is_file() for folder in folders for path in folder.rglob("*"))
    decoders = pages.decoders(process)
    assert decoders
    process.send_signal(signal.SIGKILL)
    psutil.wait_procs(decoders, timeout=10)
    assert not any(each.is_running() and each.status() != "zombie" for each in decoders)
    _, address = start(tmp_path)
    left = set(tmp_path.glob("jaxcovid-serve-*"))
    assert len(left) == 2
    assert len(left & folders) == 1  # that of the other, which still serves
    assert screens(address)
    assert screens(other_address)
    other.terminate()
    other.wait(30)
    assert len(set(tmp_path.glob("jaxcovid-serve-*"))) == 1


def test_what_is_called_like_a_servers_folder_and_is_none_stays(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (temporary / "jaxcovid-serve-link").symlink_to(kept)
    (temporary / "jaxcovid-serve-file").touch()
    _, address = start(temporary)
    assert (kept / "file").exists()
    assert screens(address)


def test_decoders_know_no_token():
    token = "a-token-of-this-test"
    process, address = pages.start(env={**os.environ, "JAXCOVID_TOKEN": token})
    assert screens(address)
    decoders = pages.decoders(process)
    assert decoders
    assert not any(token in each.environ().values() for each in decoders)
    assert token not in "".join(process.said[1:])
