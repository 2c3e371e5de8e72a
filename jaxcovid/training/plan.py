"""When a training does what, in steps."""

import math
from dataclasses import dataclass

from jaxcovid.workdir.checkpoint_facts import History


@dataclass(frozen=True)
class Plan:
    """The lengths of a training.

    Attributes:
      total_steps: in all, those of earlier starts included.
      batch_size: images of a global batch.
      accumulate_steps: steps of one optimizer update.
      validate_every: steps between validations; the last step is always validated.
      save_every: steps between checkpoints, beside one at each validation.
      log_every: steps between lines of scalars.
      early_stop_validations: stop when the best score is so many validations old; 0 never does.
      profile: the first and the last step that are traced for TensorBoard; (0, 0) traces none.
    """

    total_steps: int
    batch_size: int
    accumulate_steps: int
    validate_every: int
    save_every: int
    log_every: int
    early_stop_validations: int
    profile: tuple[int, int]

    @property
    def updates(self) -> int:
        """Optimizer updates of the whole training."""
        return math.ceil(self.total_steps / max(1, self.accumulate_steps))

    def validates(self, step: int) -> bool:
        """True if this step is validated."""
        return step > 0 and (step % self.validate_every == 0 or step == self.total_steps)

    def saves(self, step: int) -> bool:
        """True if this step is saved."""
        return self.validates(step) or step % self.save_every == 0

    def logs(self, step: int) -> bool:
        """True if the numbers of this step are written."""
        return step % self.log_every == 0 or step == self.total_steps

    def stops_early(self, history: History) -> bool:
        """True if the best score is as many validations old as is allowed."""
        if not self.early_stop_validations or not history:
            return False
        scores = [validation.score for validation in history]
        return len(scores) - 1 - scores.index(max(scores)) >= self.early_stop_validations

    def finished(self, step: int, history: History) -> bool:
        """True if nothing is left to train after this step."""
        return step >= self.total_steps or self.stops_early(history)
