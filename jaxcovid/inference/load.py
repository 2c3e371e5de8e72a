"""A trained network from the folder that a user names, for whichever engine computes it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxcovid.inference.engines import ExportedNetwork
    from jaxcovid.inference.predictor import Predictor


def load_network(
    folder: Path, engine: str, *, step: int | None = None
) -> "Predictor | ExportedNetwork":
    """Loads a network that answers for single images; JAX is imported for its own engine alone.

    Args:
      folder: a workdir for the engine jax, for others the folder of an exported network.
      engine: what computes, of `cli.ENGINES`.
      step: of the checkpoint of a workdir; None is the best one on validation.

    Raises:
      ValueError: there is no such network, it is damaged, its engine is not installed, or it
        classifies volumes.
    """
    if engine != "jax":
        from jaxcovid.inference import engines

        return engines.load(folder, engine)
    from jaxcovid.data.volume_source import check_single_images
    from jaxcovid.inference import predictor

    network = predictor.load(folder, step=step)
    check_single_images(network.run.volume_slices)
    return network
