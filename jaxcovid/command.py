"""What the commands share: the log, the devices, the compilation cache, errors as one message."""

import argparse
import contextlib
import logging
import os
import platform
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import absl.logging
from absl.flags import argparse_flags

DATA_DIR_HELP = "where data sets are kept (default: TFDS_DATA_DIR or ~/tensorflow_datasets)"


class _Handler(logging.Handler):
    """Writes to stderr above a progress bar instead of through it.

    Libraries are heard from warnings on.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or f"{os.sep}jaxcovid{os.sep}" in record.pathname

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
      ValueError: it is no two numbers, or the width is not above 0.
    """
    centre, width = map(float, text.split(","))
    if not width > 0:
        raise ValueError(f"the width of a window is above 0, not {width}")
    return centre, width


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turns an error that a user can mend into one message and exit status 1.

    `--verbosity=1` shows the traceback as well.
    """
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        absl.logging.debug("The error in full:", exc_info=True)
        _leave(f"error: {error}")
    except Exception:
        _leave(traceback.format_exc())


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
    logging.getLogger().handlers = [handler]
    absl.logging.set_verbosity(max(absl.logging.get_verbosity(), absl.logging.INFO))
    import jax

    from jaxcovid import processes
    from jaxcovid.training.sharding import warn_of_cpu

    processes.start(coordinator_address, num_processes, process_id)
    which = f"[{jax.process_index()}] " if jax.process_count() > 1 else ""
    handler.setFormatter(logging.Formatter(f"%(asctime)s {which}%(message)s", "%H:%M:%S"))
    if not jax.config.jax_compilation_cache_dir:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(caches / "jaxcovid"))
    processes.announce()
    warn_of_cpu()
