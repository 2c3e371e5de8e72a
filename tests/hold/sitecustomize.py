"""Holds a training of a test at a step until the test lets it go; see `runs.start`.

Python imports this module by itself in each process that has its folder in PYTHONPATH. In the one
that writes the log, the call that writes HOLD_STEP makes HOLD_FOLDER/held and waits for
HOLD_FOLDER/go; every later line then takes HOLD_PAUSE_S longer, so that no speed of a machine lets
the run end before a signal has come through.
"""

import functools
import importlib.abc
import importlib.machinery
import os
import pathlib
import sys
import time

MODULE = "jaxcovid.workdir.metric_writer"


def held(scalars):
    folder, at = pathlib.Path(os.environ["HOLD_FOLDER"]), int(os.environ["HOLD_STEP"])

    @functools.wraps(scalars)
    def scalars_and_wait(self, step, values):
        scalars(self, step, values)
        if self._enabled and "loss" in values:
            if step == at and not (folder / "go").exists():
                (folder / "held").touch()
                while not (folder / "go").exists():
                    time.sleep(0.01)
            if step >= at:
                time.sleep(float(os.environ["HOLD_PAUSE_S"]))

    return scalars_and_wait


class Finder(importlib.abc.MetaPathFinder):
    """Finds the module as Python does, and lets it be changed once it is there."""

    def find_spec(self, name, path, target=None):
        if name != MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.Writer.scalars = held(module.Writer.scalars)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
