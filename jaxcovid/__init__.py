"""Screening COVID-19 from chest CT and X-ray images, on JAX.

The data flow, one direction:

    configs/*.py -> jaxcovid.prepare    a data set's images -> checked array records
                 -> jaxcovid.train      data.pipeline -> models -> training -> a workdir
                 -> jaxcovid.evaluate   a workdir -> evaluation -> a report a person reads
                 -> jaxcovid.predict    a workdir and images -> probabilities and heatmaps

`jaxcovid.predictor.load(workdir)` is the same from Python. For research only; not a medical device.
"""

__version__ = "0.1.0"
