"""How much memory this process can still take."""

import contextlib
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Memory that can be taken without swapping, within the limits of its container or job."""
    available = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError):  # no Linux
        # Of cgroups of version 2 a process has one, in the last line.
        group = Path("/proc/self/cgroup").read_text().strip().rpartition("::/")[2]
        return min(available, cgroup_bytes(_CGROUPS / group, available))
    return available


def cgroup_bytes(folder: Path, unlimited: int) -> int:
    """Memory that a cgroup of version 2 and those above it leave, or `unlimited` without a limit.

    What files occupy that were not used of late does not count: the kernel gives it up.
    """
    left = unlimited
    for group in (folder, *folder.parents):
        with contextlib.suppress(OSError, ValueError, KeyError):  # no such file, or "max"
            limit = int((group / "memory.max").read_text())
            lines = (group / "memory.stat").read_text().splitlines()
            files = int(dict(line.split() for line in lines)["inactive_file"])
            left = min(left, limit - int((group / "memory.current").read_text()) + files)
    return left
