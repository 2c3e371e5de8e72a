"""Errors that a user can mend end a command with one message; others keep their traceback."""

import contextlib
import dis
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import absl.logging

# How each name in this package's folder begins.
PACKAGE = str(Path(__file__).parents[1]) + os.sep
# What libraries say of the machine, in errors that they raise for everything.
_OF_THE_MACHINE = (
    "No space left on device",
    "RESOURCE_EXHAUSTED",  # the memory of a device
    "Unable to initialize backend",  # JAX_PLATFORMS
    "Worker process was terminated",
)


def is_for_user(error: BaseException | None, *files: str) -> bool:
    """True of an error that a user can mend: its message is enough.

    That are errors of the operating system (a file, a disk, a connection), this package's own
    kinds, each ValueError and RuntimeError that a `raise` of this package made, what libraries say
    of the machine, and errors of any kind that a library made of one of these. Everything else is a
    mistake in a program: TypeError, KeyError and their like whoever raises them, and a ValueError
    that comes from the depth of a library.

    Args:
      error: with its traceback; None is no error.
      *files: whose `raise` counts as well.
    """
    if error is None:
        return False
    if isinstance(error, OSError) or type(error).__module__.startswith("jaxcovid."):
        return True
    if isinstance(error, ValueError | RuntimeError):
        if any(text in str(error) for text in _OF_THE_MACHINE):
            return True
        trace = error.__traceback__
        while trace and trace.tb_next:
            trace = trace.tb_next
        if trace and trace.tb_frame.f_code.co_filename.startswith((PACKAGE, *files)):
            # Not the call of something that failed: int(), or code without a frame of its own.
            return trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return is_for_user(error.__cause__, *files)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Ends the program by one message and exit status 1 if a user can mend the error.

    Other errors keep their traceback; `--verbosity=1` shows it of all. Ctrl-C ends it quietly with
    status 130, as a shell has it.
    """
    previous, sys.unraisablehook = sys.unraisablehook, _interrupted_where_nobody_catches
    try:
        yield
    except KeyboardInterrupt:
        _interrupted()
    except Exception as error:
        if is_for_user(error):
            absl.logging.debug("The error in full:", exc_info=True)
            _leave(f"error: {error}")
        _leave(traceback.format_exc())
    finally:
        sys.unraisablehook = previous


def _interrupted() -> None:
    """Ends this process and its workers with the status of Ctrl-C."""
    for worker in multiprocessing.active_children():
        worker.kill()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(128 + signal.SIGINT)  # an orderly exit would wait for threads and for other processes


def _interrupted_where_nobody_catches(unraisable: Any) -> None:
    """Hears a Ctrl-C that came while a destructor ran, where Python ignores exceptions."""
    if unraisable.exc_type is KeyboardInterrupt:
        _interrupted()
    sys.__unraisablehook__(unraisable)


def _leave(message: str) -> None:
    """Ends this process with status 1; others of the run notice and end too."""
    print(message, file=sys.stderr, flush=True)
    if "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
        os._exit(1)  # an orderly exit would wait for processes that wait for this one
    sys.exit(1)
