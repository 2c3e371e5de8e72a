"""One training at a time in a workdir."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from absl import logging

from jaxcovid.runtime.files import is_remote
from jaxcovid.workdir.run import WorkdirError


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Keeps a second training out of a workdir while this one is in it.

    The operating system holds the lock for the process (`flock`, on NFS for its client too), so
    that it ends with the process, however that ends.

    Raises:
      WorkdirError: another process holds it; says which, on which host.
      OSError: the folder cannot be written.
    """
    if is_remote(workdir):
        logging.warning("%s has no locks: start no second training in it", workdir)
        yield
        return
    import fcntl  # Windows, where networks predict but do not train, has none

    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise WorkdirError(
                f"{workdir} is in use by {file.read().strip() or 'another training'}; wait for its "
                "end, or give another --workdir"
            ) from error
        except OSError as error:
            logging.warning("%s has no locks (%s): start no second training in it", workdir, error)
        else:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield
