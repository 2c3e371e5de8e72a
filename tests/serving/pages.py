"""A server in a process of its own, and images for it."""

import pathlib
import re
import subprocess
import sys
import threading

import cv2
import nibabel
import numpy as np
import psutil
import runs

from jaxcovid.serving.client import Client


def start(names="one", *options, words=None, env=None):
    """Starts a server; returns its process and its address, token included.

    What it says is in `said` of the process, line by line.
    """
    child = pathlib.Path(__file__).with_name("page_server.py")
    words = words or [sys.executable, str(child), names, "0", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = runs.popen(words, env=env, **pipes)
    said = []
    for line in process.stdout:
        said.append(line)
        if found := re.match(r"The page is at (\S+)", line):
            # It never blocks for want of a reader.
            threading.Thread(target=said.extend, args=(process.stdout,), daemon=True).start()
            process.said = said
            return process, found[1]
    raise AssertionError("".join(said))


def decoders(process):
    """The processes of a server that decode."""
    return [
        each
        for each in psutil.Process(process.pid).children(recursive=True)
        if "spawn_main" in " ".join(each.cmdline())
    ]


def client(address, **options):
    place, _, secret = address.partition("#token=")
    return Client(place, token=secret, **options)


def picture(level=120, side=64, seed=0):
    """A PNG of noise around a gray level, with a bright disc and a dark one."""
    gray = np.random.default_rng(seed).integers(level - 20, level + 20, (side, side), np.uint8)
    cv2.circle(gray, (side // 4, side // 2), side // 8, 250, -1)
    cv2.circle(gray, (3 * side // 4, side // 2), side // 6, 10, -1)
    return cv2.imencode(".png", gray)[1].tobytes()


def volume(path, slices=12, side=64, brightest=7, seed=0):
    """A NIfTI volume in Hounsfield units, one slice of which is brighter than the others."""
    values = np.full((side, side, slices), -900, np.int16)
    values += np.random.default_rng(seed).integers(0, 200, values.shape).astype(np.int16)
    values[..., brightest] += 700
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1, 2, 1])), path)
    return path
