"""What a test starts is ended, whatever it has become."""

import os
import pathlib
import signal
import sys

import pytest
import runs

STARTS_ANOTHER = """
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"],
                         start_new_session=True)
print(child.pid, flush=True)
if sys.argv[1] == "stops":
    os.kill(os.getpid(), signal.SIGSTOP)
"""


def state(pid):
    """That of a process: T is stopped, S sleeps; None if there is none, or but its exit status."""
    try:
        found = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None
    return None if found == "Z" else found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("parent", ["stops", "ends"])
def test_stopped_and_orphaned_processes_in_other_sessions_are_ended(parent):
    process = runs.popen(
        [sys.executable, "-c", STARTS_ANOTHER, parent], stdout=runs.subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
    assert state(process.pid) == ("T" if parent == "stops" else None)
    assert state(child)
    other = runs.subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    try:
        runs.end_all()
        assert state(process.pid) is None
        assert state(child) is None
        assert state(other.pid)  # of somebody else
    finally:
        other.kill()
        other.wait()
    status = process.wait()
    assert status == (-signal.SIGKILL if parent == "stops" else 0)
