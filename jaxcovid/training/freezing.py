"""Layers that are not trained at first, while the head learns to read what they give."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Freezing:
    """Which layers the first steps of a training leave as they are.

    Their parameters get no updates and no weight decay. They run in inference mode, so that their
    running moments stay as they are and the head sees what it will see in a validation.

    Attributes:
      layers: of `deep_ct_net.FREEZABLE`.
      updates: optimizer updates without them.
      steps: that these updates take.
    """

    layers: tuple[str, ...]
    updates: int
    steps: int
