"""What pydicom warns of, once for each kind instead of once for each value."""

import contextlib
import logging
import pathlib
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from absl import logging as absl_logging

_LOGGERS = ("pydicom", "pydicom.pixels.decoders.base", "pydicom.pixels.utils")
_here = threading.local()  # the path that this thread reads
_counting = threading.Event()


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Iterator[None]:
    """Notes which file this thread reads, for `counted_warnings`."""
    _here.path = path
    try:
        yield
    finally:
        _here.path = None


def quiet() -> None:
    """Keeps pydicom from logging what it raises or warns of as well, unless it is counted."""
    if not _counting.is_set():
        logging.getLogger("pydicom").setLevel(logging.CRITICAL)


class _Kinds(logging.Filter):
    """Counts messages by their kind: the text without values that differ from file to file."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._examples: dict[str, pathlib.Path] = {}

    def add(self, text: str) -> None:
        kind = re.sub(r"'[^']*'|\"[^\"]*\"|\b\d[\w.]*", "...", " ".join(text.split()))
        path = getattr(_here, "path", None)
        with self._lock:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            if path:
                self._examples.setdefault(kind, path)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.funcName != "warn_and_log":  # which warns too
            self.add(record.getMessage())
        return False

    def log(self) -> None:
        for kind, count in self._counts.items():
            example = f", for example of {self._examples[kind]}" if kind in self._examples else ""
            absl_logging.warning("DICOM, %d times%s: %s", count, example, kind)


@contextlib.contextmanager
def counted_warnings() -> Iterator[None]:
    """Collects what pydicom warns of and logs in any thread; at the end logs a line for each kind.

    Values differ from file to file and may name a patient, so they become `...`. Not to be entered
    twice at a time: Python's warnings are those of the whole process.
    """
    kinds, loggers = _Kinds(), [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Any, category: Any, filename: str, *more: Any, **options: Any) -> None:
            if "pydicom" in pathlib.Path(filename).parts:
                kinds.add(str(message))
            else:
                others(message, category, filename, *more, **options)

        warnings.filterwarnings("always", module=r"pydicom(\.|$)")
        warnings.showwarning = show
        _counting.set()
        for logger in loggers:
            logger.addFilter(kinds)
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            _counting.clear()
            for logger, level in zip(loggers, levels, strict=True):
                logger.removeFilter(kinds)
                logger.setLevel(level)
            kinds.log()
