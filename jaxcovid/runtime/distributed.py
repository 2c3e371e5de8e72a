"""The processes of a run: how they find each other, where each is, and how they end together.

A process of several that leaves by itself leaves the others in a collective for ever; so each ends
them all: an error by leaving at once, which the others notice, a signal by agreeing on a step.
"""

import contextlib
import errno
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

INITIALIZATION_TIMEOUT_S = 300  # until all processes have come
WAITING_INTERVAL_S = 15  # between two lines that say who is waited for
HEARTBEAT_TIMEOUT_S = 60  # of silence, after which a process is dead and the others end
SHUTDOWN_TIMEOUT_S = 60  # that a finished process waits for the others


def start(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of this run, before anything touches a device.

    What is given counts; else the cluster that JAX detects (SLURM under `srun`, an indexed Job of
    Kubernetes, a TPU pod); else there is one process. With an address given, process 0 listens on
    it and on no other; JAX_COORDINATOR_BIND_ADDRESS is used instead where it is set, as on a
    cluster where the name of process 0 does not resolve before it runs.

    Args:
      coordinator_address: HOST:PORT of process 0.
      num_processes: how many there are; 1 needs nothing else and detects nothing.
      process_id: of this one, from 0.

    Raises:
      ValueError: a part is missing or out of range, or the address cannot be used.
      RuntimeError: the others did not come in time.
    """
    given = (coordinator_address, num_processes, process_id)
    if num_processes == 1 and coordinator_address is None:
        return
    if given == (None, None, None):
        try:
            _join("the address that the cluster gives")
        except ValueError as error:
            if "coordinator_address" not in str(error):  # that is how JAX says: no cluster
                raise
        return
    if coordinator_address is None or num_processes is None or process_id is None:
        raise ValueError(
            "give --coordinator_address=HOST:PORT, --num_processes and --process_id together, not "
            f"{coordinator_address}, {num_processes} and {process_id}"
        )
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"process_id is {process_id}; of {num_processes} processes it must be 0 to "
            f"{num_processes - 1}"
        )
    bind_address = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS")
    host, port = _host_and_port(coordinator_address)
    if not bind_address:
        _resolve(host, port)
    if process_id == 0:
        _check_free(bind_address or coordinator_address)
    _join(
        coordinator_address,
        coordinator_address,
        num_processes,
        process_id,
        # Detection would give each process one GPU of those that it can see.
        cluster_detection_method="deactivate",
        coordinator_bind_address=bind_address or coordinator_address,
    )


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(
            f"{address!r} is no address; give HOST:PORT with a port of 1 to 65535, as in "
            "localhost:8476 or [::1]:8476"
        )
    return host.strip("[]"), int(port)


def _resolve(host: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(
            f"the host {host!r} of the coordinator cannot be resolved ({error.strerror}); give the "
            "name or address of process 0's host. Where its name resolves only once it runs, set "
            "JAX_COORDINATOR_BIND_ADDRESS, as launch/kubernetes.yaml does"
        ) from error


def _check_free(address: str) -> None:
    """Refuses an address on which this process cannot listen; JAX would share a port in use."""
    host, port = _host_and_port(address)
    family, kind, protocol, _, place = _resolve(host, port)[0]
    with socket.socket(family, kind, protocol) as listener:
        if os.name == "posix":  # what an ended process has left there is no obstacle
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(place)
            listener.listen()
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                why = "is not an address of this host, on which process 0 listens"
            else:
                why = f"cannot be listened on ({error.strerror})"
            raise ValueError(
                f"{address} {why}; give another host or port as --coordinator_address, to every "
                "process the same"
            ) from error


def _join(
    where: str,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    **options: Any,
) -> None:
    """Calls `jax.distributed.initialize`, and says who is waited for while it waits.

    It waits in C++, where it hears no Ctrl-C, says nothing, and ends the program with a stack trace
    after its time: so it waits in a thread, for longer than this one.

    Args:
      where: the address, for messages.
      coordinator_address: of `initialize`; this and the next two are None if they are detected.
      num_processes: of `initialize`.
      process_id: of `initialize`.
      **options: its other options.
    """
    failed: list[BaseException] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                coordinator_address,
                num_processes,
                process_id,
                initialization_timeout=2 * INITIALIZATION_TIMEOUT_S,
                heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
                shutdown_timeout_seconds=SHUTDOWN_TIMEOUT_S,
                **options,
            )
        except BaseException as error:
            failed.append(error)

    begun = time.monotonic()
    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    while thread.is_alive():
        left = begun + INITIALIZATION_TIMEOUT_S - time.monotonic()
        thread.join(max(0.0, min(WAITING_INTERVAL_S, left)))
        if not thread.is_alive():
            break
        waited = time.monotonic() - begun
        if coordinator_address is None or num_processes is None or process_id is None:
            who = "others of the cluster are missing"
        else:
            who = _who_is_here(coordinator_address, num_processes, process_id)
        if waited >= INITIALIZATION_TIMEOUT_S:
            raise RuntimeError(
                f"not all processes came to {where} within {waited:.0f} s: {who}. Start all with "
                "the same --coordinator_address and --num_processes, each with its own --process_id"
            )
        logging.info("Waiting for the processes at %s since %.0f s: %s", where, waited, who)
    if failed:
        raise failed[0]


def _who_is_here(address: str, count: int, index: int) -> str:
    """Which processes have come, as far as this one can see: JAX itself does not tell."""
    host, port = _host_and_port(address)
    if index > 0:
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError as error:
            return f"process 0 does not answer there ({error.strerror or error})"
        return f"process 0 is there, others of the {count} are missing"
    hosts = _connected_hosts(port)
    if not hosts:
        return f"others of the {count} are missing"
    came_from = ", ".join(sorted(set(hosts)))
    return f"{len(hosts)} of {count} are here, this one included, from {came_from}"


def _connected_hosts(port: int) -> list[str]:
    """The other end of each connection to a port of this host; known on Linux alone."""
    hosts = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", name).read_text().splitlines()[1:]:
                _, here, there, state = line.split()[:4]
                if state == "01" and int(here.rpartition(":")[2], 16) == port:
                    # Words of four bytes, each in the order of the machine.
                    words = bytes.fromhex(there.rpartition(":")[0])
                    parts = [words[i : i + 4] for i in range(0, len(words), 4)]
                    if sys.byteorder == "little":
                        parts = [part[::-1] for part in parts]
                    text = socket.inet_ntop(family, b"".join(parts))
                    hosts.append(text.removeprefix("::ffff:"))
    return hosts


def announce() -> None:
    """Logs where this process is and what it computes on."""
    local = jax.local_devices()
    kinds = sorted({device.device_kind for device in jax.devices()})
    logging.info(
        "Process %d of %d on %s, pid %d: %d of %d %s device(s), %s",
        jax.process_index(),
        jax.process_count(),
        socket.gethostname(),
        os.getpid(),
        len(local),
        jax.device_count(),
        jax.default_backend(),
        ", ".join(kinds),
    )


def is_main() -> bool:
    """True in the process that writes: the first."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns when every process has come to `what`."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def from_main(value: np.ndarray | np.generic) -> np.ndarray:
    """The first process's value, in every process; all give arrays of one shape and dtype."""
    return multihost_utils.broadcast_one_to_all(value)
