"""Where `--config=configs/NAME.py` is: as a path, else among the configurations that come along."""

import importlib
import sys
import types
from pathlib import Path


def folder() -> Path:
    """The configurations that come along: in a checkout beside the package, installed within it."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def resolve(config: str) -> str:
    """The path that a configuration is loaded from, and what makes it find `configs.default`.

    A file of the user's may import `configs` too: the user's own, with what comes along behind it.

    Args:
      config: FILE.py or FILE.py:variant; a FILE that does not exist and is called configs/NAME.py
        is the one that comes along.

    Returns:
      The same with the path of a file that exists.

    Raises:
      ValueError: there is no such file.
    """
    name, colon, variant = config.partition(":")
    path, own = Path(name), folder()
    if not path.is_file():
        path = own / path.name if path.parent == Path("configs") else path
    if not path.is_file():
        known = ", ".join(f"configs/{file.name}" for file in sorted(own.glob("[!_]*.py")))
        raise ValueError(f"there is no configuration {name}; give a path, or one of {known}")
    if path.resolve().parent == own.resolve():
        sys.modules["configs"] = _package([str(own)])
    else:
        _append(str(own))
    return f"{path}{colon}{variant}"


def _package(places: list[str]) -> types.ModuleType:
    package = types.ModuleType("configs")
    package.__path__ = places
    return package


def _append(own: str) -> None:
    """Lets `configs` be the user's package, if there is one, and behind it the one at `own`."""
    try:
        package = importlib.import_module("configs")
    except ModuleNotFoundError:
        package = sys.modules["configs"] = _package([])
    places = list(getattr(package, "__path__", []))
    if own not in places:
        package.__path__ = [*places, own]
