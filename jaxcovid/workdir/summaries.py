"""What `run.json` says of the weights of others that a run uses."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PartSummary:
    """A frozen part of a run.

    Attributes:
      dataset: name of the data set that it was trained on.
      outputs: names of its outputs.
      step: of its checkpoint.
      weights: SHA-256 of the checksums of its weights.
    """

    dataset: str
    outputs: tuple[str, ...]
    step: int
    weights: str


@dataclass(frozen=True)
class InitSummary:
    """The weights that a run began with.

    Attributes:
      source: the network and where it is from, in words.
      licence: of the weights; empty if it is not known.
      sha256: of their names and values.
    """

    source: str
    licence: str
    sha256: str


@dataclass(frozen=True)
class TeacherSummary:
    """A network whose features a run learns, see `weights.teachers`.

    Attributes:
      source: the network and where it is from, in words.
      licence: of the weights; empty if it is not known.
      sha256: of the names and values of the backbone's.
      backbone: its name, see `backbones.BACKBONES`.
      growth_rate: of a densenet121, see `DeepCTNet`.
      depths: likewise.
      mean: of the images that it saw, see `Preprocessing`.
      std: likewise.
    """

    source: str
    licence: str
    sha256: str
    backbone: str
    growth_rate: int
    depths: tuple[int, ...]
    mean: float | None
    std: float | None
