"""Functions of a test file, each called in two processes of one run at once."""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import jax

HERE = pathlib.Path(__file__).parent


def join(port, index):
    """Called first in each of the two processes."""
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)


def call(module, function, *arguments, devices=1, timeout=600):
    """Calls `function(*arguments)` of a test file in both; each one's exit status and output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "; ".join(
        [
            "import sys, two_processes",
            "two_processes.join(int(sys.argv[1]), int(sys.argv[2]))",
            f"import {module}",
            f"{module}.{function}(*sys.argv[3:])",
        ]
    )
    folder = pathlib.Path(sys.modules[module].__file__).parent
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(HERE), str(folder)]),
    }
    logs = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(port), str(i), *map(str, arguments)],
            env=environment,
            stdout=logs[i],
            stderr=subprocess.STDOUT,
        )
        for i in range(2)
    ]
    try:
        for process in both:
            process.wait(timeout)
    finally:
        for process in both:
            process.kill()
    for log in logs:
        log.seek(0)
    return [(p.returncode, log.read()) for p, log in zip(both, logs, strict=True)]
