"""Screening COVID-19 from chest CT and X-ray images, on JAX.

The data flow, one direction:

    configs/*.py -> jaxcovid.prepare    a data set's images -> checked array records
                 -> jaxcovid.train      data.pipeline -> models -> training -> a workdir
                 -> jaxcovid.evaluate   a workdir -> evaluation -> a report for people
                 -> jaxcovid.predict    a workdir and images -> probabilities and heatmaps

`jaxcovid.load(workdir)` gives the trained network to Python. For research only; not a medical
device.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxcovid.inference.predictor import Predictor

__version__ = "0.1.0"


def load(workdir: str | os.PathLike[str], **options: Any) -> "Predictor":
    """A trained network.

    Args:
      workdir: of a training run.
      **options: those of `inference.predictor.load`.
    """
    from jaxcovid.inference import predictor  # JAX takes seconds to import
    from jaxcovid.runtime.files import as_path

    return predictor.load(as_path(workdir), **options)
