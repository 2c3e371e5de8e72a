"""What an exported network says about itself: `manifest.json` beside it.

This file needs no JAX, so that a network can be used where there is none.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcovid.data.labels import KINDS, Task
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.runtime.files import read_json, write_atomically

FILE = "manifest.json"
FORMAT_VERSION = 1
PIXELS, NETWORK_INPUT = "pixels", "image"  # names of the input
USE = "For research only: not a medical device, not for diagnosis or treatment."


class ManifestError(ValueError):
    """A folder that holds no exported network, or a damaged one."""


@dataclass(frozen=True)
class Manifest:
    """An exported network.

    Attributes:
      format: of the files: `onnx`, `savedmodel`, `stablehlo` or `torch`.
      files: SHA-256 by path in the folder.
      input: `name`, `dtype`, `shape` and `range` of the input.
      outputs: `shape` and meaning of each output, by name.
      task: what the network is asked, see `labels.KINDS`.
      classes: names of the columns of `probability`, the positive class first.
      thresholds: on calibrated probabilities of the positive class, by name; `youden` is usual.
      temperature: by which logits are divided.
      modality: of the images, "CT" or "X-ray"; empty if it is not known.
      window: centre and width in Hounsfield units through which CT becomes gray.
      hu_offset: what makes Hounsfield units of the values of 16-bit PNG and TIFF, or None.
      preprocessing: options of the five steps.
      network: options of the network.
      dataset: name, digest and citation of what it was trained on.
      step: of its checkpoint.
      version: of jaxcovid.
      licence: of the program and of the weights.
      use: what it may be used for.
      validation_auc: of `float32` and `int8`, if the file has 8 bits; else empty.
    """

    format: str
    files: Mapping[str, str]
    input: Mapping[str, Any]
    outputs: Mapping[str, Any]
    task: str
    classes: tuple[str, ...]
    thresholds: Mapping[str, float]
    temperature: float
    modality: str
    window: tuple[float, float]
    hu_offset: float | None
    preprocessing: Mapping[str, Any]
    network: Mapping[str, Any]
    dataset: Mapping[str, str]
    step: int
    version: str
    licence: str
    use: str = USE
    validation_auc: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def asked(self) -> Task:
        """The task, typed."""
        return Task(self.task, self.classes)

    @property
    def steps(self) -> Preprocessing:
        """The preprocessing, typed."""
        return Preprocessing(**self.preprocessing)

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}

    def save(self, folder: Path) -> None:
        """Writes it with the checksums of the files that are in the folder."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILE)
        files = {path.relative_to(folder).as_posix(): _checksum(path) for path in paths}
        content = json.dumps(dataclasses.replace(self, files=files).to_json(), indent=1)
        write_atomically(folder / FILE, (content + "\n").encode())


def load_manifest(folder: Path) -> Manifest:
    """The manifest of a folder, its files checked.

    Raises:
      ManifestError: there is none, it is damaged or of another version, or a file is missing or
        has another checksum.
    """
    path = folder / FILE
    if not path.is_file():
        raise ManifestError(
            f"{folder} holds no {FILE}; give the folder that python -m jaxcovid.export wrote"
        )
    try:
        content = read_json(path)
        version = content.pop("format_version", None)
        if version == FORMAT_VERSION:
            manifest = _parse(content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ManifestError(f"{path} is damaged: {error!r}; export the network again") from error
    if version != FORMAT_VERSION:
        raise ManifestError(
            f"{path} has format {version}, this version of jaxcovid reads {FORMAT_VERSION}; export "
            "the network again"
        )
    for name, checksum in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise ManifestError(f"{file} is missing; copy the whole folder, or export again")
        if (actual := _checksum(file)) != checksum:
            raise ManifestError(
                f"{file} has SHA-256 {actual[:12]}..., its manifest says {checksum[:12]}...: it is "
                "damaged or was replaced; copy it again, or export again"
            )
    return manifest


def _parse(content: Mapping[str, Any]) -> Manifest:
    """The manifest of the content of its file."""
    manifest = Manifest(
        **{**content, "classes": tuple(content["classes"]), "window": tuple(content["window"])}
    )
    if manifest.task not in KINDS or not all(isinstance(x, str) for x in manifest.classes):
        raise ValueError(f"task {manifest.task!r} of {manifest.classes}")
    _ = manifest.steps  # refuses options that it does not know
    centre, width = map(float, manifest.window)
    thresholds = {str(name): float(value) for name, value in manifest.thresholds.items()}
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in manifest.files):
        raise ValueError("a file outside of the folder")
    return dataclasses.replace(manifest, window=(centre, width), thresholds=thresholds)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
