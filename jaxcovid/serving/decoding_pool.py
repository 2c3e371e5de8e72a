"""The processes that decode: replaced when they crash, run out of memory or take too long.

Each has a pipe of its own, so that one that is killed takes no other's answer with it. What it
answers is not trusted: nothing is unpickled but the types below.
"""

import asyncio
import concurrent.futures
import contextlib
import io
import multiprocessing
import os
import pickle
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from jaxcovid.data.image_error import ImageError
from jaxcovid.serving import decoding
from jaxcovid.serving.limits import Limits

_TASKS = 500  # of a process, after which a fresh one takes its place: what leaks does not add up
_START_S = 60.0
_TICK_S = 0.1  # between two looks whether a file takes too long, or nobody waits for it any more
_FORGET_S = 2.0  # after which nothing is held of a page that was closed
_GRACE_S = 1.0  # for a file that nobody waits for: most are done by then, and the process is kept
_ANSWERED, _UNUSABLE, _FAILED, _NO_MEMORY = "answered", "unusable", "failed", "no memory"
_TYPES = {
    ("jaxcovid.serving.decoding", "Decoded"),
    ("jaxcovid.serving.decoding", "Slice"),
    ("jaxcovid.serving.decoding", "Pixels"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),  # its module in Python 3.13
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
}


class _DiedError(ImageError):
    """A process ended in the middle of a file."""


@dataclass(eq=False)
class _Call:
    """What is asked of a process; `abandoned` once nobody waits for the answer."""

    words: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]  # function and arguments
    abandoned: threading.Event = field(default_factory=threading.Event)


class _Decoder:
    """A process, used by one thread at a time."""

    def __init__(self, limits: Limits) -> None:
        """Starts it.

        Raises:
          ImageError: it does not start.
        """
        context = multiprocessing.get_context("spawn")
        self._limits, self._tasks = limits, 0
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, limits), name="decoder", daemon=True
        )
        try:
            with theirs:
                self._process.start()
            if self._pipe.poll(_START_S):
                self._pipe.recv_bytes()  # it is ready: its time counts from here
                return
        except (EOFError, OSError) as error:
            raise ImageError(f"no process to decode can be started ({error})") from error
        self.end()
        raise ImageError(f"no process to decode has started in {_START_S:g} seconds")

    def take(self, call: _Call) -> bool:
        """Hands it a task; False if it has died or has done enough."""
        self._tasks += 1
        if self._tasks > _TASKS or not self._process.is_alive():
            return False
        try:
            self._pipe.send(call.words)
        except OSError:
            return False
        return True

    def answer(self, call: _Call) -> Any:
        """What it answers; it is ended if it does not.

        Raises:
          ImageError: see `DecoderPool.run`.
        """
        try:
            kind, answer = self._wait(call)
        except BaseException:
            self.end()
            raise
        if kind == _ANSWERED:
            return answer
        if kind == _NO_MEMORY:
            raise ImageError(_out_of_memory(self._limits))
        raise ImageError(answer if kind == _UNUSABLE else f"decoding it failed ({answer})")

    def _wait(self, call: _Call) -> tuple[str, Any]:
        limit_s, begun, abandoned = self._limits.decode_s, time.monotonic(), 0.0
        try:
            while not self._pipe.poll(_TICK_S):
                now = time.monotonic()
                if now - begun > limit_s:
                    raise ImageError(f"it took more than {limit_s:g} seconds to decode")
                if call.abandoned.is_set():
                    abandoned = abandoned or now
                    if now - abandoned > _GRACE_S:
                        raise ImageError("nobody waits for it")
            kind, answer = _Unpickler(io.BytesIO(self._pipe.recv_bytes())).load()
        except (EOFError, OSError) as error:
            raise _DiedError(_out_of_memory(self._limits)) from error
        except (pickle.UnpicklingError, TypeError, AttributeError) as error:
            raise ImageError("decoding it failed: what its process answered is none") from error
        return kind, answer

    def end(self) -> None:
        """Ends the process."""
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()
        self._pipe.close()


class DecoderPool:
    """Decodes the files of strangers in processes of their own."""

    def __init__(self, limits: Limits) -> None:
        """Starts a process when there is a file for it.

        Args:
          limits: of time and memory.
        """
        self._limits = limits
        # A process ends with the thread that started it: these threads live as long as the pool.
        self._threads = concurrent.futures.ThreadPoolExecutor(limits.decoders, "decoders")
        self._idle: queue.LifoQueue[_Decoder] = queue.LifoQueue()
        self._calls: set[_Call] = set()

    async def run(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What a function of `decoding` returns.

        Where this is cancelled, the process is done with the file before it ends.

        Raises:
          ImageError: the file cannot be used: that is what the function says, or it took too much
            time or memory.
        """
        call = _Call((function, arguments, options))
        future = self._threads.submit(self._ask, call)
        answer = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            call.abandoned.set()
            if not future.cancel():
                await asyncio.wait({answer})
                if not answer.cancelled():
                    answer.exception()  # which is nobody's
            raise

    def _ask(self, call: _Call) -> Any:
        """The answer of a process, in one of the threads."""
        self._calls.add(call)
        try:
            return self._ask_once(call)
        except _DiedError:  # maybe somebody killed it; a file that did will do so again
            return self._ask_once(call)
        finally:
            self._calls.discard(call)

    def _ask_once(self, call: _Call) -> Any:
        decoder = self._take_idle() or _Decoder(self._limits)
        while not decoder.take(call):
            decoder.end()
            decoder = self._take_idle() or _Decoder(self._limits)
        try:
            return decoder.answer(call)
        finally:
            self._idle.put(decoder)  # one that gave no answer was ended, which `take` sees

    def _take_idle(self) -> _Decoder | None:
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        return None

    def close(self) -> None:
        """Ends the processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for call in list(self._calls):
            call.abandoned.set()
        self._threads.shutdown()
        while not self._idle.empty():
            self._idle.get().end()


def _out_of_memory(limits: Limits) -> str:
    return f"decoding it failed, or needed more than {limits.memory_bytes // 2**20:,} MiB of memory"


def _serve(pipe: Connection, limits: Limits) -> None:
    """What a process does: function after function, until its pipe is closed."""
    decoding.limit_process(limits)
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 2)  # libraries say there what a file says
    with contextlib.suppress(EOFError, OSError):
        pipe.send_bytes(b"ready")
        while True:
            decoding.forget_removed()
            if not pipe.poll(_FORGET_S):
                continue
            function, arguments, options = pipe.recv()
            pipe.send_bytes(_answer(function, arguments, options))


def _answer(function: Callable[..., Any], arguments: Any, options: Any) -> bytes:
    try:
        return pickle.dumps((_ANSWERED, function(*arguments, **options)))
    except ImageError as error:
        return pickle.dumps((_UNUSABLE, str(error)))
    except MemoryError:
        return pickle.dumps((_NO_MEMORY, ""))
    except Exception as error:  # a file that a library does not survive stops nobody
        return pickle.dumps((_FAILED, type(error).__name__))


class _Unpickler(pickle.Unpickler):
    """Makes nothing but what answers are made of."""

    def find_class(self, module: str, name: str) -> Any:
        """See `pickle.Unpickler`."""
        if (module, name) not in _TYPES:
            raise pickle.UnpicklingError(f"{module}.{name} is in no answer")
        return super().find_class(module, name)
