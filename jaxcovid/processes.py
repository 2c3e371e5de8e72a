"""The processes of a run: how they find each other, where each is, and how they end together.

A process of several that leaves by itself leaves the others in a collective for ever; so each ends
them all: an error by leaving at once, which the others notice, a signal by agreeing on a step.
"""

import os
import signal
import socket
import threading
from types import FrameType
from typing import Any

import jax
from absl import logging
from jax.experimental import multihost_utils

INITIALIZATION_TIMEOUT_S = 300  # until all processes have come
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
    it and on no other; JAX_COORDINATOR_BIND_ADDRESS is used instead where it is set.

    Args:
      coordinator_address: HOST:PORT of process 0.
      num_processes: how many there are; 1 needs nothing else and detects nothing.
      process_id: of this one, from 0.

    Raises:
      ValueError: a part is missing or out of range.
      RuntimeError: the others did not come in time.
    """
    timeouts = {
        "initialization_timeout": INITIALIZATION_TIMEOUT_S,
        "heartbeat_timeout_seconds": HEARTBEAT_TIMEOUT_S,
        "shutdown_timeout_seconds": SHUTDOWN_TIMEOUT_S,
    }
    given = (coordinator_address, num_processes, process_id)
    if num_processes == 1 and coordinator_address is None:
        return
    if given == (None, None, None):
        try:
            jax.distributed.initialize(**timeouts)
        except ValueError as error:
            if "coordinator_address" not in str(error):  # that is how JAX says: no cluster
                raise
        return
    if None in given or ":" not in coordinator_address:
        raise ValueError(
            "give --coordinator_address=HOST:PORT, --num_processes and --process_id together, not "
            f"{coordinator_address}, {num_processes} and {process_id}"
        )
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"process_id is {process_id}; of {num_processes} processes it must be 0 to "
            f"{num_processes - 1}"
        )
    jax.distributed.initialize(
        coordinator_address,
        num_processes,
        process_id,
        # Detection would give each process one GPU of those that it can see.
        cluster_detection_method="deactivate",
        coordinator_bind_address=os.environ.get(
            "JAX_COORDINATOR_BIND_ADDRESS", coordinator_address
        ),
        **timeouts,
    )


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


class Termination:
    """Notes SIGTERM and a first Ctrl-C instead of dying, so that the loop can save and leave."""

    def __init__(self) -> None:
        self._signalled = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Termination":
        # Python lets only the main thread set handlers; elsewhere nothing is caught. Of several
        # processes JAX has caught SIGTERM since they joined.
        if threading.current_thread() is threading.main_thread():
            caught = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGTERM, signal.SIGINT]
            for number in caught:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self, step: int) -> bool:
        """True after the step at which all processes end, if one was signalled."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._signalled

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if jax.process_count() > 1:  # as a scheduler would, so that all agree on a step
            os.kill(os.getpid(), signal.SIGTERM)
        if self._signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signalled = True
