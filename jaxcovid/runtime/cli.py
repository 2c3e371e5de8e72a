"""What the commands share: the log, the devices, the compilation cache, errors as one message."""

import argparse
import contextlib
import dis
import logging
import multiprocessing
import os
import platform
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import absl.logging
from absl.flags import argparse_flags

from jaxcovid.runtime.files import as_path, expand_home, home

DATA_DIR_HELP = "where data sets are kept (default: TFDS_DATA_DIR or ~/tensorflow_datasets)"

# How each name in this package's folder begins.
_PACKAGE = str(Path(__file__).parents[1]) + os.sep
# What libraries say of the machine, in errors that they raise for everything.
_OF_THE_MACHINE = (
    "No space left on device",
    "RESOURCE_EXHAUSTED",  # the memory of a device
    "Unable to initialize backend",  # JAX_PLATFORMS
    "Worker process was terminated",
)

# A worker that prepares images comes here before all else. Its parent gets Ctrl-C too, and ends it.
if multiprocessing.current_process().name != "MainProcess":
    with contextlib.suppress(ValueError):  # outside the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)
# What grain shares with workers that are ended is tidied up by a process of Python's, which warns.
sys.warnoptions.append("ignore:resource_tracker")


class _Handler(logging.Handler):
    """Writes to stderr above a progress bar instead of through it.

    Libraries are heard from warnings on.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.pathname.startswith(_PACKAGE)

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


# A train step on a CPU allocates and frees half a gigabyte. In pages of 4 KiB their faults can cost
# most of the step on a virtual machine; glibc asks for pages of 2 MiB when told to.
_HUGE_PAGES = "glibc.malloc.hugetlb=1"


def use_huge_pages() -> None:
    """Starts this command anew with an allocator that asks for huge pages.

    Does nothing off glibc, or where the user has set GLIBC_TUNABLES.
    """
    if "GLIBC_TUNABLES" in os.environ or platform.libc_ver()[0] != "glibc":
        return
    environment = {**os.environ, "GLIBC_TUNABLES": _HUGE_PAGES}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def make_parser(name: str, description: str) -> argparse.ArgumentParser:
    """The parser of a command: its help is the docstring of its module, as it is written."""
    return argparse_flags.ArgumentParser(
        prog=f"python -m jaxcovid.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def centre_and_width(text: str) -> tuple[float, float]:
    """The window of an option, as in `--window=-600,1500`.

    Raises:
      argparse.ArgumentTypeError: it is no two numbers, or the width is not above 0.
    """
    try:
        centre, width = map(float, text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no CENTRE,WIDTH: give two numbers, as in -600,1500"
        ) from error
    if not width > 0:
        raise argparse.ArgumentTypeError(f"the width of a window is above 0, not {width:g}")
    return centre, width


def typed(name: str, arguments: Sequence[str]) -> str:
    """The command line of a command, as a shell takes it.

    Args:
      name: of the command.
      arguments: the words behind it. Options that say which of several processes this is are of
        the place and left out.
    """
    places = ("coordinator_address", "num_processes", "process_id")
    kept, skip = [], False
    for word in arguments:
        option, equals, _ = word.lstrip("-").partition("=")
        if skip or (word.startswith("-") and option in places):
            skip = not skip and not equals  # its value is the next word
        else:
            kept.append(word)
    return shlex.join(["python", "-m", f"jaxcovid.{name}", *kept])


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
        if trace and trace.tb_frame.f_code.co_filename.startswith((_PACKAGE, *files)):
            # Not the call of something that failed: int(), or code without a frame of its own.
            return trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return is_for_user(error.__cause__, *files)


def add_reading_options(
    parser: argparse.ArgumentParser, *, of: str = "", window: str, every: int | None = None
) -> None:
    """Adds the options that say how a user's own images are read.

    Args:
      parser: gets `--window`, `--hu_offset`, `--every` and `--pseudonyms`.
      of: what stands before their help.
      window: the default window, in words.
      every: value of `--every` where it is not given.
    """
    parser.add_argument(
        "--window",
        metavar="HU",
        type=centre_and_width,
        help=f"{of}CENTRE,WIDTH in Hounsfield units, for CT (default: {window})",
    )
    parser.add_argument(
        "--hu_offset",
        type=float,
        metavar="HU",
        help=f"{of}16-bit PNG and TIFF of CT: their values plus this are Hounsfield units",
    )
    parser.add_argument(
        "--every",
        type=int,
        default=every,
        metavar="N",
        help=f"{of}of volumes every Nth slice (default: 1)",
    )
    parser.add_argument(
        "--pseudonyms",
        metavar="KEYFILE",
        type=as_path,
        help=f"{of}replace ids of patients and series by pseudonyms made with this secret key",
    )


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


def start(
    coordinator_address: str | None = None,
    num_processes: int | None = 1,
    process_id: int | None = None,
) -> None:
    """Opens the log on stderr, joins the other processes, sets JAX's compilation cache.

    Args and errors: see `processes.start`; by default this is the only process.
    """
    handler = _Handler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.getLogger().handlers = [handler]
    absl.logging.set_verbosity(max(absl.logging.get_verbosity(), absl.logging.INFO))
    import jax

    from jaxcovid.runtime import distributed
    from jaxcovid.runtime.sharding import silence_libtpu, warn_of_cpu

    silence_libtpu()
    distributed.start(coordinator_address, num_processes, process_id)
    which = f"[{jax.process_index()}] " if jax.process_count() > 1 else ""
    handler.setFormatter(logging.Formatter(f"%(asctime)s {which}%(message)s", "%H:%M:%S"))
    # JAX gives its configuration the attributes at run time.
    cache_folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if not cache_folder and (folder := _cache_folder()):
        jax.config.update("jax_compilation_cache_dir", str(folder))
    distributed.announce()
    warn_of_cpu()


def _cache_folder() -> Path | None:
    """The folder of compiled programs; None, and a line in the log, where it cannot be written."""
    caches = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(expand_home(caches)) if caches else home() / ".cache") / "jaxcovid"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (ValueError, OSError) as error:
        absl.logging.warning(
            "Compiled programs are not kept (%s); set XDG_CACHE_HOME to a folder that can be "
            "written",
            error,
        )
        return None
