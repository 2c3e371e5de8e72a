"""What the commands share: their options, the log, the devices, the compilation cache."""

import argparse
import contextlib
import logging
import multiprocessing
import os
import platform
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import absl.logging
from absl.flags import argparse_flags

from jaxcovid.runtime import log_lines
from jaxcovid.runtime.files import as_path, expand_home, home
from jaxcovid.runtime.user_errors import PACKAGE

ENGINES = ("jax", "onnxruntime", "openvino")  # what computes a trained network
DATA_DIR_HELP = "where data sets are kept (default: TFDS_DATA_DIR or ~/tensorflow_datasets)"

# A worker that prepares images comes here before all else. Its parent gets Ctrl-C too, and ends it.
if multiprocessing.current_process().name != "MainProcess":
    with contextlib.suppress(ValueError):  # outside the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)
# What grain shares with workers that are ended is tidied up by a process of Python's, which warns.
sys.warnoptions.append("ignore:resource_tracker")


def is_logged(record: logging.LogRecord) -> bool:
    """True of what this package logs, and of the warnings of libraries."""
    return record.levelno >= logging.WARNING or record.pathname.startswith(PACKAGE)


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


def add_reading_options(
    parser: argparse.ArgumentParser, *, prefix: str = "", window: str, every: int | None = None
) -> None:
    """Adds the options that say how a user's own images are read.

    Args:
      parser: gets `--window`, `--hu_offset`, `--every` and `--pseudonyms`.
      prefix: of their help.
      window: the default window, in words.
      every: value of `--every` where it is not given.
    """
    parser.add_argument(
        "--window",
        metavar="HU",
        type=centre_and_width,
        help=f"{prefix}CENTRE,WIDTH in Hounsfield units, for CT (default: {window})",
    )
    parser.add_argument(
        "--hu_offset",
        type=float,
        metavar="HU",
        help=f"{prefix}16-bit PNG and TIFF of CT: their values plus this are Hounsfield units",
    )
    parser.add_argument(
        "--every",
        type=int,
        default=every,
        metavar="N",
        help="of volumes every Nth slice (default: 1)",
    )
    parser.add_argument(
        "--pseudonyms",
        metavar="KEYFILE",
        type=as_path,
        help=f"{prefix}replace ids of patients and series by pseudonyms made with this secret key",
    )


def add_network_options(parser: argparse.ArgumentParser, *, metavar: str = "DIR") -> None:
    """Adds the options that name a trained network and what computes it; see `choose_engine`.

    Args:
      parser: gets `--workdir`, `--model` and `--engine`.
      metavar: of the folders, in the help.
    """
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--workdir", metavar=metavar, help="of a training run")
    network.add_argument(
        "--model", metavar=metavar, help="that jaxcovid.export --format=onnx wrote; needs no JAX"
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        help="what computes: jax for --workdir; for --model onnxruntime (default) or openvino",
    )


def choose_engine(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Sets the default of `--engine`; ends with the usage if it does not fit the network."""
    args.engine = args.engine or ("jax" if args.workdir else "onnxruntime")
    if (args.engine == "jax") == bool(args.model):
        needed = "--workdir of a training run" if args.model else "--model of an export"
        parser.error(f"--engine={args.engine} needs the {needed}")


def open_log(form: logging.Formatter | None = None) -> logging.Handler:
    """Opens the log on stderr: all that a command without JAX needs.

    Args:
      form: of its lines; None has the time of day in front of text.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(is_logged)
    handler.setFormatter(form or log_lines.plain())
    logging.getLogger().handlers = [handler]
    absl.logging.set_verbosity(max(absl.logging.get_verbosity(), absl.logging.INFO))
    return handler


def start(
    coordinator_address: str | None = None,
    num_processes: int | None = 1,
    process_id: int | None = None,
    *,
    form: logging.Formatter | None = None,
) -> None:
    """Opens the log on stderr, joins the other processes, sets JAX's compilation cache.

    Args and errors: see `distributed.start` and `open_log`; by default this is the only process.
    """
    handler = open_log(form)
    import jax

    from jaxcovid.runtime import distributed
    from jaxcovid.runtime.devices import silence_libtpu, warn_of_cpu

    silence_libtpu()
    distributed.start(coordinator_address, num_processes, process_id)
    if jax.process_count() > 1:
        handler.setFormatter(log_lines.plain(prefix=f"[{jax.process_index()}] "))
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
