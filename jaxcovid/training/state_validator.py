"""What every validation does with a state: score it, write the scores, keep them beside it."""

import abc
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from jaxcovid.runtime.sharding import replicated_sharding
from jaxcovid.training.progress import Progress
from jaxcovid.training.state import TrainState
from jaxcovid.workdir.checkpoint_facts import History, Validation
from jaxcovid.workdir.checkpoints import Checkpoints


class StateValidator(abc.ABC):
    """Validates a state and adds the scores to its checkpoint."""

    def __init__(self, mesh: Mesh) -> None:
        """Takes the devices; subclasses say what is scored on them."""
        self._mesh = mesh

    def __call__(
        self,
        step: int,
        state: TrainState,
        history: History,
        *,
        progress: Progress,
        checkpoints: Checkpoints,
    ) -> History:
        """Validates a state that is saved; returns all validations up to this one."""
        variables = jax.device_put(state.variables, replicated_sharding(self._mesh))
        validation, scalars = self.measure(step, variables)
        progress.writer.scalars(step, {f"validation/{k}": v for k, v in sorted(scalars.items())})
        self.show(step, variables, progress)
        history = (*history, validation)
        checkpoints.add_validation(history)
        return history

    @abc.abstractmethod
    def measure(
        self, step: int, variables: Mapping[str, Any]
    ) -> tuple[Validation, dict[str, float]]:
        """The scores of variables that are replicated over the mesh, and those that are logged."""

    def show(self, step: int, variables: Mapping[str, Any], progress: Progress) -> None:
        """Writes pictures; here none."""
        del step, variables, progress
