"""Finds the file of weights that a user names: by its path, or by the package that ships it."""

import importlib.metadata
from pathlib import Path

from jaxcovid.weights.files.read import FORMATS

_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors", ".h5", ".keras", ".npz")


def find_file(name: str) -> tuple[Path, str]:
    """Finds a file, or the only file of weights in an installed package.

    Returns:
      Its path, and what to call it: FILE or PACKAGE/FILE.

    Raises:
      ValueError: there is no such file or package, or the package has none or several.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path, path.name
    try:
        files = importlib.metadata.files(name) or []
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise ValueError(f"{name} is neither a file nor an installed package") from error
    found = [Path(file.locate()) for file in files if file.name.endswith(_SUFFIXES)]
    if len(found) != 1:
        paths = "".join(f"\n  {path}" for path in found)
        raise ValueError(
            f"the package {name} has {len(found)} files of weights, {FORMATS}; "
            f"name one by its path{paths}"
        )
    return found[0], f"{name}/{found[0].name}"
