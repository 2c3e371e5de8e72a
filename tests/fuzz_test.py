"""Whatever a file holds, its reader ends with a result or with an error that it documents."""

import json
import os
import pathlib
import sys

import pytest
import runs

CHILD = pathlib.Path(__file__).with_name("fuzz_child.py")
READERS = ("images", "dicom", "volumes", "tables", "workdir", "weights", "overrides")


def feed(reader, examples, seed, folder):
    """Runs a reader over so many inputs; returns how often each end came."""
    process = runs.run(
        [sys.executable, CHILD, reader, str(examples), str(seed), folder],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        errors="replace",
        timeout=3600,
    )
    left = folder / "input"
    assert process.returncode == 0, (
        f"{reader} failed with {process.returncode} at {left} "
        f"({left.read_bytes()[:200] if left.exists() else ''!r})\n{process.stderr[-4000:]}"
    )
    ends = json.loads(process.stdout.splitlines()[-1])
    print(f"{reader}: {ends}")
    assert sum(ends.values()) > examples / 2
    assert ends["read"] > examples / 50, "mutations leave nothing that can be read"
    return ends


@pytest.mark.parametrize("reader", READERS)
def test_a_few_inputs(reader, tmp_path):
    feed(reader, 60, 1, tmp_path / "fuzz")


@pytest.mark.long
@pytest.mark.parametrize("reader", READERS)
def test_thousands_of_inputs(reader, tmp_path):
    """What one mutation in a thousand does; a few inputs show only that the readers run."""
    feed(reader, 4000, 0, tmp_path / "fuzz")
