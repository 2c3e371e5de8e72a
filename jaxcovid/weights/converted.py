"""Converted weights: a folder with `weights.safetensors` and `weights.json`.

The arrays are float32 in the layouts of our modules (kernels [h, w, in, out]), named by their path
in the variables of `DeepCTNet`, such as `params/backbone/block1/layer1/conv1/kernel`. The JSON says
what they are, where they come from and what images they expect.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from jaxcovid.runtime.files import read_json, write_atomically
from jaxcovid.weights.files.safetensors_file import read_safetensors
from jaxcovid.weights.files.weight_file import MOST_BYTES

FORMAT_VERSION = 1
ARRAYS_FILE = "weights.safetensors"
FACTS_FILE = "weights.json"


@dataclass(frozen=True)
class Origin:
    """Where weights come from.

    Attributes:
      name: of the source, such as `torchvision`.
      url: of its code.
      licence: of its code and of the weights that it publishes, as SPDX has it; whoever trained
        other weights decides on theirs.
      file: name of the file, or `PACKAGE/FILE`.
      sha256: of the file.
    """

    name: str
    url: str
    licence: str
    file: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Input:
    """The images that weights were trained on.

    Attributes:
      channels: of their source's images.
      low: value of black in their source, before its normalisation.
      high: value of white.
      mean: what their source subtracts, for each channel, in units of low and high.
      std: what it then divides by.
      preprocessing_mean: `config.preprocessing.mean` that gives the converted network exactly what
        its source saw; None if no single number does.
      preprocessing_std: the same of `config.preprocessing.std`.
    """

    channels: int
    low: float
    high: float
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    preprocessing_mean: float | None = None
    preprocessing_std: float | None = None


@dataclass(frozen=True, kw_only=True)
class Description:
    """What weights are of.

    Attributes:
      backbone: value of `config.model.backbone`.
      origin: where they come from.
      input: what images they expect.
      epsilon: of the source's batch normalisation.
      epsilon_treatment: how a difference to ours, 1e-5, was handled.
      attention: value of `config.model.attention`; None if only the backbone was converted.
      head: value of `config.model.head`; None if there is no classifier.
      outputs: names of the classifier's outputs.
      notes: what else a user of the weights should know.
    """

    backbone: str
    origin: Origin
    input: Input
    epsilon: float = 1e-5
    epsilon_treatment: str = "the same as ours"
    attention: str | None = None
    head: str | None = None
    outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ConvertedWeights(Description):
    """Weights of a published network as variables of ours.

    Attributes:
      variables: float32, by their path.
      skipped: which arrays of the file were left out, and why.
    """

    variables: Mapping[str, np.ndarray]
    skipped: tuple[str, ...] = ()

    @property
    def holds(self) -> tuple[str, ...]:
        """The modules that have variables, such as `backbone`, `classifier`."""
        return tuple(sorted({name.split("/")[1] for name in self.variables}))

    def write(self, folder: Path) -> None:
        """Writes both files.

        Raises:
          FileExistsError: the folder has converted weights already.
          OSError: the folder cannot be written.
        """
        if (folder / FACTS_FILE).exists():
            raise FileExistsError(
                f"{folder} holds converted weights already; remove it or name another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        arrays = safetensors.numpy.save(
            {name: np.ascontiguousarray(array) for name, array in self.variables.items()}
        )
        facts = {
            "format_version": FORMAT_VERSION,
            "sha256": hashlib.sha256(arrays).hexdigest(),
            "holds": self.holds,
            **dataclasses.asdict(dataclasses.replace(self, variables={})),
        }
        del facts["variables"]
        write_atomically(folder / ARRAYS_FILE, arrays)
        text = json.dumps(facts, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        write_atomically(folder / FACTS_FILE, text.encode())

    @classmethod
    def read(cls, folder: Path) -> "ConvertedWeights":
        """What `write` wrote.

        Raises:
          ValueError: the folder holds no converted weights, or those of another version, or they
            are damaged.
          OSError: the files cannot be read.
        """
        facts_file, arrays_file = folder / FACTS_FILE, folder / ARRAYS_FILE
        if not facts_file.is_file() or not arrays_file.is_file():
            raise ValueError(
                f"{folder} holds no converted weights ({FACTS_FILE} and {ARRAYS_FILE}); make them "
                "with python -m jaxcovid.convert"
            )
        try:
            facts = read_json(facts_file)
            version = facts.pop("format_version", None)
            if version != FORMAT_VERSION:
                known = version if isinstance(version, int) else "unknown"
                raise ValueError(f"its version is {known}, not {FORMAT_VERSION}")
            variables = _read_variables(arrays_file, facts.pop("sha256", None))
            return _parse(facts, variables)
        except ValueError as error:
            raise ValueError(
                f"{facts_file} or {ARRAYS_FILE} cannot be used: {error}; convert the weights anew"
            ) from error


def _read_variables(path: Path, sha256: Any) -> dict[str, np.ndarray]:
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.name} has more than {MOST_BYTES:,} bytes")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"{path.name} is not the file that was written: its SHA-256 differs")
    variables = dict(read_safetensors(data).arrays)
    for name, array in variables.items():
        parts = name.split("/")
        if parts[0] not in ("params", "batch_stats") or len(parts) < 3 or "" in parts:
            raise ValueError(f"{name:.80} is no path of a variable")
        if array.dtype != np.float32:
            raise ValueError(f"{name:.80} is {array.dtype} instead of float32")
    return variables


_NUMBERS = (tuple, (int, float))
_TEXTS = (tuple, str)
_OPTIONAL_NUMBER = (int, float, type(None))
_KINDS: dict[type, dict[str, Any]] = {
    Origin: {"name": str, "url": str, "licence": str, "file": str, "sha256": str},
    Input: {
        "channels": int,
        "low": (int, float),
        "high": (int, float),
        "mean": _NUMBERS,
        "std": _NUMBERS,
        "preprocessing_mean": _OPTIONAL_NUMBER,
        "preprocessing_std": _OPTIONAL_NUMBER,
    },
    ConvertedWeights: {
        "backbone": str,
        "epsilon": (int, float),
        "epsilon_treatment": str,
        "attention": (str, type(None)),
        "head": (str, type(None)),
        "outputs": _TEXTS,
        "skipped": _TEXTS,
        "notes": _TEXTS,
    },
}


def _parse(facts: dict[str, Any], variables: Mapping[str, np.ndarray]) -> ConvertedWeights:
    weights = ConvertedWeights(
        variables=variables,
        origin=Origin(**_checked(facts.get("origin"), _KINDS[Origin])),
        input=Input(**_checked(facts.get("input"), _KINDS[Input])),
        **_checked(facts, _KINDS[ConvertedWeights]),
    )
    if facts.get("holds") != list(weights.holds):
        raise ValueError("it names other modules than there are variables of")
    return weights


def _checked(content: Any, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the named keys, lists as tuples.

    Raises:
      ValueError: one is missing, or is of another kind.
    """
    if not isinstance(content, dict):
        raise ValueError("it lacks the origin or the input")
    checked = {}
    for key, kind in kinds.items():
        value = content.get(key, ...)
        if kind in (_NUMBERS, _TEXTS):
            value = tuple(value) if isinstance(value, list) else ...
            fits = value is not ... and all(isinstance(item, kind[1]) for item in value)
        else:
            fits = isinstance(value, kind)
        if not fits or isinstance(value, bool):
            raise ValueError(f"{key} is missing or is no value of its kind")
        checked[key] = value
    return checked
