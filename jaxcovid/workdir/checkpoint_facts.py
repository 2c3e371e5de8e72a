"""What a checkpoint says about itself: `WORKDIR/checkpoints/STEP/facts`, a JSON.

The format version, the step, a CRC-32 of every array (orbax does not notice a flipped byte) and
all validations so far.
"""

import dataclasses
import math
import re
import statistics
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from jaxcovid.runtime.files import read_json

FORMAT_VERSION = 1
FOLDER = "checkpoints"
_BY_NAME = ("thresholds", "dice", "source_auc")  # fields of a validation


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, of another network or version, or cannot be read."""


class DamagedError(CheckpointError):
    """A checkpoint that no further attempt will read: a checksum, a missing file or its format."""


@dataclass(frozen=True)
class Validation:
    """The scores of a validation.

    Attributes:
      step: at which it was.
      auc: of the positive class, or the mean over findings; NaN of a network without classifier.
      loss: that of the training, of classes in nats; of masks alone the mean of 1 - Dice.
      temperature: see `metrics.calibration`.
      thresholds: on calibrated probabilities, by name; see `metrics.thresholds`.
      dice: of a network that segments, by structure: the mean over patients.
      source_auc: `auc` of each source with both classes, of a training on several.
    """

    step: int
    auc: float
    loss: float
    temperature: float = 1.0
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    dice: Mapping[str, float] = dataclasses.field(default_factory=dict)
    source_auc: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def score(self) -> float:
        """What ranks checkpoints: the AUC, the Dice of the lesion, or the mean of both.

        Without either it is the loss, negative. Of several sources it is the mean of their AUCs:
        that of all images together would mostly say how well the network tells a source with many
        positive images from one with few.
        """
        auc = statistics.fmean(self.source_auc.values()) if self.source_auc else self.auc
        dice = self.dice.get("lesion", self.dice.get("lungs", math.nan))
        known = [value for value in (auc, dice) if not math.isnan(value)]
        return statistics.fmean(known) if known else -self.loss


History = tuple[Validation, ...]  # all validations of a run, in order


@dataclass(frozen=True)
class CheckpointFacts:
    """The facts of a checkpoint.

    Attributes:
      step: of the training.
      checksums: CRC-32 by path of each array, for each item.
      history: all validations up to this step.
    """

    step: int
    checksums: Mapping[str, Mapping[str, int]]
    history: History

    @property
    def validation(self) -> Validation | None:
        """The validation at this step, None if there was none."""
        last = self.history[-1] if self.history else None
        return last if last and last.step == self.step else None

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "format_version": FORMAT_VERSION,
            "step": self.step,
            "checksums": self.checksums,
            "history": [dataclasses.asdict(validation) for validation in self.history],
        }


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint of a workdir, see `open_checkpoint`."""

    workdir: Path
    facts: CheckpointFacts

    @property
    def step(self) -> int:
        """Of the training."""
        return self.facts.step

    @property
    def folder(self) -> Path:
        """Where its items are."""
        return self.workdir / FOLDER / str(self.step)


def checksums(tree: Any) -> dict[str, int]:
    """CRC-32 of the bytes of every array of a pytree, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf)) for path, leaf in leaves
    }


def steps(workdir: Path) -> list[int]:
    """Steps of the finished checkpoints of a workdir, ascending."""
    folder = workdir / FOLDER
    return sorted(ocp.utils.checkpoint_steps(folder)) if folder.is_dir() else []


def facts_path(workdir: Path, step: int) -> Path:
    """The file that holds the facts of a checkpoint."""
    return workdir / FOLDER / str(step) / "facts" / "metadata"


def read_facts(workdir: Path, step: int) -> CheckpointFacts:
    """The facts of a checkpoint.

    Raises:
      DamagedError: they are missing or malformed.
      CheckpointError: they cannot be read, or were written by a newer format.
    """
    try:
        content = read_json(facts_path(workdir, step))
    except (OSError, ValueError, MemoryError) as error:
        raise unreadable(workdir, step, error) from error
    version = content.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {step} of {workdir} has format {version}, this version of jaxcovid reads "
            f"up to {FORMAT_VERSION}; use a newer one"
        )
    if malformed := _malformed(content):
        raise DamagedError(
            f"checkpoint {step} of {workdir} is damaged: its {malformed} is missing or malformed"
        )
    if content["step"] != step:
        raise DamagedError(
            f"checkpoint {step} of {workdir} is damaged: its facts are those of step "
            f"{content['step']}"
        )
    names = [field.name for field in dataclasses.fields(Validation)]
    history = tuple(
        Validation(**{"loss": float("nan"), **{k: entry[k] for k in names if k in entry}})
        for entry in content["history"]
    )
    return CheckpointFacts(content["step"], content["checksums"], history)


def _malformed(content: Mapping[str, Any]) -> str:
    """What of a checkpoint's facts has another type than it should; empty if nothing has."""
    sums, history = content.get("checksums"), content.get("history")
    if not all(type(content.get(name)) is int for name in ("format_version", "step")):
        return "format_version or step"
    if not isinstance(sums, dict) or not all(isinstance(item, dict) for item in sums.values()):
        return "checksums"
    for entry in history if isinstance(history, list) else [None]:
        if (
            not isinstance(entry, dict)
            or type(entry.get("step")) is not int
            or not isinstance(entry.get("auc"), int | float)
            or not isinstance(entry.get("loss", 0.0), int | float)
            or not isinstance(entry.get("temperature", 1.0), int | float)
            or not all(_is_numbers(entry.get(name, {})) for name in _BY_NAME)
        ):
            return "history"
    return ""


def _is_numbers(value: Any) -> bool:
    """True of a mapping from names to numbers."""
    return isinstance(value, dict) and all(isinstance(x, int | float) for x in value.values())


def _best(workdir: Path) -> Checkpoint:
    """The validated checkpoint of the best validation score; the later one of a tie.

    Damaged checkpoints do not count: a run that is killed may leave an old one half deleted.

    Raises:
      CheckpointError: there is no checkpoint, or none was validated.
    """
    ranked = []
    for step in steps(workdir):
        try:
            facts = read_facts(workdir, step)
        except DamagedError as error:
            logging.warning("%s; it does not count", error)
            continue
        if facts.validation:
            ranked.append((facts.validation.score, step, facts))
    if not ranked:
        raise CheckpointError(
            f"no validated checkpoint in {workdir}; train until the first validation"
        )
    return Checkpoint(workdir, max(ranked)[-1])


def open_checkpoint(workdir: Path, step: int | None = None) -> Checkpoint:
    """A checkpoint of a workdir.

    Args:
      workdir: of a training run.
      step: one of `steps`; None is the validated one of the best score, the later one of a tie.

    Raises:
      DamagedError: its facts are missing or malformed.
      CheckpointError: there is none, or it cannot be read.
    """
    if step is None:
        return _best(workdir)
    if step not in steps(workdir):
        raise CheckpointError(f"no checkpoint {step} in {workdir}; there are {steps(workdir)}")
    return Checkpoint(workdir, read_facts(workdir, step))


def unreadable(workdir: Path, step: int, error: Exception) -> CheckpointError:
    """The error to raise for one that was met while a checkpoint was read."""
    cause: BaseException = error
    while type(cause) is Exception and cause.__cause__:  # orbax's, around the one that counts
        cause = cause.__cause__
    message = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    if _is_damage(error):
        return DamagedError(
            f"checkpoint {step} of {workdir} is damaged or of another network: {message}"
        )
    return CheckpointError(
        f"checkpoint {step} of {workdir} cannot be read: {message}. It is left as it is; try again "
        "when the cause is gone"
    )


# As tensorstore's errors begin, which are ValueErrors of a status code and a text.
_DAMAGE_CODES = (
    "NOT_FOUND",
    "OUT_OF_RANGE",
    "DATA_LOSS",
    "FAILED_PRECONDITION",
    "INVALID_ARGUMENT",
)


def _is_damage(error: BaseException | None) -> bool:
    """True of a missing file or a wrong format; False where another attempt may succeed.

    Orbax wraps tensorstore's errors, so that all causes count: what the operating system reports
    (other than a missing file), memory that runs out and what JAX raises are no damage.
    """
    damage = False
    while error is not None:
        if isinstance(error, FileNotFoundError):
            damage = True
        elif isinstance(error, OSError | MemoryError | RuntimeError):
            return False
        elif isinstance(error, ValueError | LookupError | TypeError):
            code = re.match("([A-Z_]+): ", str(error))
            if "os_error_code=" in str(error) or (code and code[1] not in _DAMAGE_CODES):
                return False
            damage = True
        error = error.__cause__ or error.__context__
    return damage
