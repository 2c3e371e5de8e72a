"""How the processes of a run find each other, and what they say when they do not."""

import signal
import socket
import sys

import pytest
import runs

from jaxcovid.runtime import distributed

START = """
import sys
from jaxcovid.runtime import cli, distributed, user_errors
distributed.INITIALIZATION_TIMEOUT_S = int(sys.argv[4])
distributed.WAITING_INTERVAL_S = float(sys.argv[5])
with user_errors.user_errors():
    cli.start(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


def start(address, count, index, timeout_s, interval_s):
    words = map(str, (address, count, index, timeout_s, interval_s))
    return [sys.executable, "-c", START, *words]


@pytest.fixture
def free():
    """An address on which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


@pytest.mark.parametrize(
    ("address", "index", "message"),
    [
        ("no-such-host.invalid:8476", 1, "the host 'no-such-host.invalid' .* cannot be resolved"),
        ("no-such-host.invalid:8476", 0, "the host 'no-such-host.invalid' .* cannot be resolved"),
        ("localhost:65536", 0, "'localhost:65536' is no address; .* a port of 1 to 65535"),
        ("localhost:0", 1, "a port of 1 to 65535"),
        ("localhost", 1, "give HOST:PORT"),
        (":8476", 1, "give HOST:PORT"),
        ("192.0.2.1:8476", 0, "is not an address of this host"),
    ],
)
def test_an_address_that_cannot_be_used_is_an_error_at_once(address, index, message, monkeypatch):
    monkeypatch.setattr(distributed.jax.distributed, "initialize", pytest.fail)
    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    with pytest.raises(ValueError, match=message):
        distributed.start(address, 2, index)


def test_a_port_in_use_is_an_error_at_once(monkeypatch):
    monkeypatch.setattr(distributed.jax.distributed, "initialize", pytest.fail)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ValueError, match="cannot be listened on"):
            distributed.start(address, 2, 0)
        monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", address)
        with pytest.raises(ValueError, match="cannot be listened on"):
            distributed.start("not-known-yet.invalid:8476", 2, 0)


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_nobody_joins_says_so_and_ends(index, free):
    process = runs.run(start(free, 2, index, 3, 1))
    assert process.returncode == 1
    who = "1 of 2 are here, this one included" if index == 0 else "process 0 does not answer there"
    lines = process.stderr.splitlines()
    assert f"Waiting for the processes at {free} since" in lines[0]
    assert who in lines[0]
    assert lines[-1].startswith(f"error: not all processes came to {free} within 3 s: {who}")
    assert "stack trace" not in process.stderr


def test_who_has_come_is_counted():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert distributed._connected_hosts(port) == []
        guests = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        hosts = [server.accept()[0] for _ in guests]
        assert distributed._connected_hosts(port) == ["127.0.0.1"] * 2
        for end in (*guests, *hosts):
            end.close()


def test_ctrl_c_ends_a_process_that_waits(free, tmp_path):
    with (tmp_path / "log").open("w") as log:
        process = runs.popen(start(free, 2, 1, 3600, 0.1), stderr=log)
        while "Waiting" not in (tmp_path / "log").read_text():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(runs.TIMEOUT_S) == 128 + signal.SIGINT
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_processes_that_come_join(free):
    first = runs.popen(start(free, 2, 0, runs.TIMEOUT_S, 1))
    assert runs.run(start(free, 2, 1, runs.TIMEOUT_S, 1)).returncode == 0
    assert first.wait(runs.TIMEOUT_S) == 0
