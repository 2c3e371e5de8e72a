"""Signals that end a training before its time: all processes save the same step and leave."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


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
