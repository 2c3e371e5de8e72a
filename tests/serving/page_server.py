"""Serves the page with networks whose answers are known: python page_server.py NAME[,NAME] PORT."""

import dataclasses
import pathlib
import sys

import numpy as np
from absl import logging

from jaxcovid.data.labels import Task
from jaxcovid.inference.network import Network
from jaxcovid.inference.out_of_distribution import Detector
from jaxcovid.inference.training_facts import Counts, TrainingFacts
from jaxcovid.runtime import cli
from jaxcovid.serving import server
from jaxcovid.serving.limits import Limits
from jaxcovid.serving.served_networks import Networks, Served

FACTS = 10


class Bright(Network):
    """Its probability is the mean gray; lesion is what is above 200, lungs what is below 60."""

    thresholds = {"youden": 0.5}  # noqa: RUF012
    batch_size = 4
    detector: Detector | None = None
    window = (-600.0, 1500.0)
    hu_offset = None
    task = Task("binary", ("COVID-19",))
    modality = "CT"
    has_gradcam = True
    segments = True

    def __init__(self):
        values = np.tile(np.linspace(0, 1, 60)[:, None], (1, FACTS))
        self.training_facts = TrainingFacts(
            values, np.arange(60) >= 30, Counts(30, 60), Counts(10, 40)
        )

    def probabilities(self, images):
        return np.array([[self.read_gray(image).mean() / 255] for image in images])

    def heatmaps(self, images, *, output=0):
        del output
        return np.stack([np.full((4, 4), 0.5, np.float32) for _ in images])

    def segment(self, images):
        grays = [self.read_gray(image) for image in images]
        return [np.stack([gray < 60, gray > 200], -1).astype(np.float32) for gray in grays]

    def warning(self, gray, colour):
        del colour
        return "a blank image" if gray.std() < 2 else ""


def main(names, port, options):
    cli.open_log()
    logging.set_verbosity(logging.INFO)
    served = [Served(name, Bright(), "made-up slices", 7, ()) for name in names.split(",")]
    limits, keep = Limits(), None
    for option in options:
        name, _, value = option.partition("=")
        if name == "keep":
            keep = pathlib.Path(value)
        else:
            limits = dataclasses.replace(limits, **{name: type(getattr(limits, name))(value)})
    place = server.Place("127.0.0.1", int(port))
    with place.listen() as listening:
        server.serve(Networks(served), place, listening, limits=limits, keep=keep)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
