"""What screens a user's images, whatever computes it."""

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxcovid.data.decoding import as_gray, read_file
from jaxcovid.data.labels import Task
from jaxcovid.data.sight import Sight
from jaxcovid.inference.out_of_distribution import FILE as DETECTOR_FILE
from jaxcovid.inference.out_of_distribution import Detector
from jaxcovid.inference.training_facts import TrainingFacts

Image = str | Path | bytes | np.ndarray
NO_HEATMAPS = (
    "there are no heatmaps: part 3 of this network is switched off, or it segments and has no "
    "classifier"
)
NO_LUNGS = "no lungs were found: the whole image was screened"


class Network(abc.ABC):
    """A trained network.

    Attributes:
      thresholds: chosen on calibrated probabilities of the validation split, by name.
      batch_size: images that go through the network at once.
      detector: knows what training images look like; None if there is none.
      window: centre and width in Hounsfield units through which CT is seen.
      hu_offset: what makes Hounsfield units of 16-bit PNG and TIFF; None stretches each over its
        own range.
      training_facts: which facts beside the disease went with the class in its training; None if
        they were not kept.
    """

    thresholds: Mapping[str, float]
    batch_size: int
    detector: Detector | None
    window: tuple[float, float]
    hu_offset: float | None
    training_facts: TrainingFacts | None = None

    @property
    @abc.abstractmethod
    def task(self) -> Task:
        """What it is asked."""

    @property
    @abc.abstractmethod
    def modality(self) -> str:
        """What it was trained on: "CT" or "X-ray"; empty if that is not known."""

    @property
    @abc.abstractmethod
    def has_gradcam(self) -> bool:
        """True if there are heatmaps: of a network with a classifier of maps of its own."""

    @abc.abstractmethod
    def probabilities(self, images: Sequence[Image]) -> np.ndarray:
        """Calibrated probabilities float64 [n, outputs] of images, in their order.

        Args:
          images: paths, encoded bytes, or arrays uint8 or uint16 [h, w] gray, [h, w, 3] RGB.

        Raises:
          ImageError: an image that is not usable, or DICOM of another modality; says why.
          OSError: a file that cannot be read.
        """

    @abc.abstractmethod
    def heatmaps(self, images: Sequence[Image], *, output: int = 0) -> np.ndarray:
        """Grad-CAM heatmaps float32 [n, any, any] in 0 to 1 of an output, each over its image.

        Args and errors: as those of `probabilities`; output 0 is the positive class. A network
        without `has_gradcam` has none: ValueError.
        """

    @property
    def segments(self) -> bool:
        """True if it segments lungs and lesion."""
        return False

    def segment(self, images: Sequence[Image]) -> list[np.ndarray]:
        """Where lungs and lesion are: of each image float32 [h, w, 2], probabilities.

        Height and width are those that `read_gray` gives. Args and errors: as those of
        `probabilities`; a network without a decoder raises a ValueError.
        """
        del images
        raise ValueError(
            "this network has no decoder; train one with --config.objective=segmentation or joint"
        )

    @property
    def classifies(self) -> bool:
        """False of a network that only segments: its probability is the share of lungs involved."""
        return True

    @property
    def explained(self) -> tuple[str, ...]:
        """Names of the outputs that have heatmaps, the first of `outputs`."""
        return self.outputs if self.has_gradcam else ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, the positive class first."""
        return self.task.outputs

    @property
    def sight(self) -> Sight:
        """How it sees images."""
        return Sight(self.modality, self.window, self.hu_offset)

    def read_gray(self, image: Image) -> np.ndarray:
        """The gray image uint8 [h, w] of a path, encoded bytes or an array; see `probabilities`."""
        if isinstance(image, np.ndarray):
            return as_gray(image)
        data = image if isinstance(image, bytes) else read_file(Path(image))
        return self.sight.read_gray(data)

    def warnings(self, grays: Sequence[np.ndarray], colours: Sequence[float]) -> list[str]:
        """What is unusual about each of some images; see `warning`."""
        return [self.warning(*each) for each in zip(grays, colours, strict=True)]

    def warning(self, gray: np.ndarray, colour: float) -> str:
        """Why an image should not be screened, empty if nothing is unusual.

        Args:
          gray: see `read_gray`.
          colour: see `decoding.colour_of`.
        """
        if self.detector is None:
            return (
                f"not checked: the workdir has no {DETECTOR_FILE}; finish the training (it needs "
                "20 images or more)"
            )
        return self.detector.warning(gray, colour)
