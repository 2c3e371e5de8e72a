"""Where `--config=configs/NAME.py` is: as a path, else among the configurations that come along."""

import importlib
import sys
import traceback
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import app, flags
from ml_collections import config_flags
from ml_collections.config_flags import config_path

from jaxcovid.runtime.user_errors import is_for_user


def define_flag() -> flags.FlagHolder[ml_collections.ConfigDict]:
    """The option `--config`, and `--config.OPTION` for each of its options."""
    holder = config_flags.DEFINE_config_file(
        "config", None, "FILE.py or FILE.py:variant", lock_config=True
    )
    flag = flags.FLAGS["config"]
    flag.parser = _Parser(flag.parser)
    return holder


def folder() -> Path:
    """The configurations that come along: in a checkout beside the package, installed within it."""
    package = Path(__file__).parents[1]
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


class _Parser(flags.ArgumentParser[ml_collections.ConfigDict]):
    """Loads a configuration by the parser of ml_collections, after finding its file."""

    def __init__(self, parser: flags.ArgumentParser[ml_collections.ConfigDict]) -> None:
        super().__init__()
        self._parser = parser

    def parse(self, argument: str) -> ml_collections.ConfigDict:
        config = resolve(argument)
        try:
            return self._parser.parse(config)
        except ValueError as error:  # with a traceback as its text
            files = config.partition(":")[0], str(folder())
            if is_for_user(error.__context__, *files):  # what a configuration refuses
                raise ValueError(str(error.__context__)) from error
            raise

    def flag_type(self) -> str:
        return self._parser.flag_type()


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses with absl; an option that the configuration lacks is one message too."""
    try:
        return app.parse_flags_with_usage(list(argv))
    except (AttributeError, KeyError, TypeError) as error:
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        if config_path.__file__ not in files:
            raise  # a mistake in the configuration file, which its traceback shows
        cause: Any = error
        while isinstance(cause, Exception):
            cause = cause.args[0]
        sys.exit(f"error: an option of --config: {cause}\nconfigs/default.py lists them all.")
