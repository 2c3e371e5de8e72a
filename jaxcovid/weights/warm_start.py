"""Begins a training with weights of another one, once; a run that is resumed has its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import logging

from jaxcovid.runtime.files import as_path
from jaxcovid.weights.initial import InitialWeights, open_weights
from jaxcovid.weights.selection import Module, choose_modules, replace_modules, table
from jaxcovid.workdir import run as runs
from jaxcovid.workdir.run import Run
from jaxcovid.workdir.summaries import InitSummary


@dataclass(frozen=True)
class WarmStart:
    """The weights that a run begins with.

    Attributes:
      folder: that holds them.
      what: is taken of them, one of `WHAT`.
      summary: of the weights, as the run has it.
      weights: themselves; None where the run has begun with them before.
    """

    folder: Path
    what: str
    summary: InitSummary
    weights: InitialWeights | None

    @property
    def is_training(self) -> bool:
        """True if they are new here and come from a training of this project."""
        return self.weights is not None and (self.folder / runs.FILE).exists()

    def check(self, run: Run, model: nn.Module) -> None:
        """Checks that a network that is new can begin with them, before anything is written.

        Raises:
          ValueError: see `selection.choose_modules`.
        """
        if self.weights is None:
            return
        size = run.preprocessing.size
        image = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
        self._choose(self.weights, jax.eval_shape(model.init, jax.random.key(0), image), run)
        ours, theirs = run.config["preprocessing"], self.weights.preprocessing
        if different := [name for name, value in theirs.items() if ours[name] != value]:
            logging.warning(
                "The images of %s were prepared in another way: %s",
                self.folder,
                ", ".join(f"{name} {theirs[name]}, here {ours[name]}" for name in different),
            )

    def load(self, variables: Mapping[str, Any], run: Run) -> dict[str, Any]:
        """The `params` and `batch_stats` of a run, with these weights in their places.

        Raises:
          ValueError: the weights are not those that the run was started with, or do not fit it.
          OSError: they cannot be read.
        """
        weights = self.weights or open_weights(self.folder)
        if weights.summary.sha256 != self.summary.sha256:
            raise ValueError(
                f"{self.folder} holds other weights than when this run was started, which has not "
                "saved a checkpoint yet; put them back, or give a new --workdir"
            )
        modules = self._choose(weights, variables, run)
        licence = self.summary.licence or "unknown"
        logging.info(
            "Initial weights of %s: %s (licence: %s)\n%s",
            self.folder,
            self.summary.source,
            licence,
            table(modules),
        )
        return replace_modules(variables, weights, modules)

    def _choose(
        self, weights: InitialWeights, variables: Mapping[str, Any], run: Run
    ) -> list[Module]:
        return choose_modules(
            weights,
            {name: variables.get(name, {}) for name in ("params", "batch_stats")},
            what=self.what,
            backbone=run.config["model"]["backbone"],
            outputs=run.task.outputs,
        )


def find(workdir: Path, weights: str, *, what: str) -> WarmStart | None:
    """The weights that a run begins with; None if it begins with random ones.

    Args:
      workdir: of the run; where it has begun, the weights are not read.
      weights: the folder that holds them, as the user names it; empty for random ones.
      what: is taken of them, one of `WHAT`.

    Raises:
      ValueError: see `initial.open_weights`.
      OSError: they cannot be read.
    """
    if not weights:
        return None
    folder = as_path(weights)
    if (workdir / runs.FILE).exists():
        begun = Run.load(workdir).init
        if begun:
            return WarmStart(folder, what, begun, None)
    opened = open_weights(folder)
    return WarmStart(folder, what, opened.summary, opened)
