"""The function that is exported: from gray pixels to probabilities, heatmaps and masks.

All formats are made of it, in JAX's plain operations, so that each computes the same. It computes
in float32, also of a network that was trained in bfloat16.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jaxcovid.data import device_steps
from jaxcovid.data.preprocessing import Preprocessing
from jaxcovid.data.volume_source import check_single_images
from jaxcovid.inference.grad_cam import logits_and_grad_cams
from jaxcovid.inference.predictor import Predictor
from jaxcovid.models.deep_cxr_net import DeepCXRNet, FrozenPart
from jaxcovid.weights.export.manifest import PIXELS

Results = dict[str, jax.Array]  # by the names of the outputs


@dataclass(frozen=True)
class Program:
    """A trained network as functions of arrays alone.

    Attributes:
      model: the network, in plain form.
      variables: its weights, NumPy arrays.
      preprocessing: steps 2 to 5; step 1 is for training only.
      temperature: by which logits are divided.
      explained: indices of the outputs that get a heatmap; may be empty.
    """

    model: nn.Module
    variables: Mapping[str, Any]
    preprocessing: Preprocessing
    temperature: float
    explained: tuple[int, ...]

    def with_variables(self, variables: Mapping[str, Any]) -> "Program":
        """The same program with other weights, traced ones for example."""
        return dataclasses.replace(self, variables=variables)

    def entry(self, name: str) -> tuple[Callable[[jax.Array], Results], jax.ShapeDtypeStruct]:
        """One of the two functions, and what it takes, its free dimensions symbolic.

        Args:
          name: of the input, `PIXELS` or `NETWORK_INPUT`.
        """
        if name == PIXELS:
            shape = export.symbolic_shape("b, h, w")
            return self.from_pixels, jax.ShapeDtypeStruct(shape, np.uint8)
        size = self.preprocessing.size
        shape = export.symbolic_shape(f"b, {size}, {size}, 1")
        return self.from_input, jax.ShapeDtypeStruct(shape, np.float32)

    def from_pixels(self, pixels: jax.Array) -> Results:
        """Screens gray images uint8 [b, h, w] of one shape; see `from_input`."""
        gray = device_steps.equalize_to_blur(pixels, preprocessing=self.preprocessing)
        return self.from_input(device_steps.normalize(gray, preprocessing=self.preprocessing))

    def from_input(self, image: jax.Array) -> Results:
        """Screens images after preprocessing.

        Args:
          image: float32 [b, size, size, 1].

        Returns:
          `probability` float32 [b, outputs], calibrated; if there are any, `heatmap` float32
          [b, explained, size / 16, size / 16] in 0 to 1; of a network with a decoder `masks`
          float32 [b, 2, size, size], probabilities of lungs and lesion.
        """
        logits: Any
        results: Results = {}
        if self.explained:
            logits, results["heatmap"] = logits_and_grad_cams(
                self.variables, image, model=self.model, outputs=self.explained
            )
        else:
            logits = self.model.apply(self.variables, image, train=False, method="all_logits")
        if "masks" in logits:
            results["masks"] = jnp.moveaxis(jax.nn.sigmoid(logits["masks"]), -1, 1)
        scores = self.model.scores(logits) / self.temperature
        return {"probability": self.model.probabilities(scores), **results}


def make_program(predictor: Predictor, *, grouped_depthwise: bool = False) -> Program:
    """The program of a trained network.

    Args:
      predictor: the network.
      grouped_depthwise: for engines that are fast at it, see `EfficientNetLite.grouped`.

    Raises:
      ValueError: it classifies volumes, or was trained on altered images or on what another network
        shows of them, which the program would not do.
    """
    if predictor.ablation:
        raise ValueError(
            f"{predictor.workdir} was trained with ablation={predictor.run.ablation}, to measure "
            "what images show without their lungs; export a network trained with ablation=none"
        )
    check_single_images(predictor.run.volume_slices)
    if predictor.lungs:
        raise ValueError(
            f"{predictor.workdir} is shown images through lungs.use="
            f"{predictor.run.config['lungs']['use']}, by a second network; the exported program "
            "takes whole images. Export a network trained without lungs.workdir, or screen with "
            "python -m jaxcovid.predict"
        )
    explained = range(1 if predictor.task.screens else len(predictor.outputs))
    return Program(
        model=_plain(predictor.model, grouped_depthwise=grouped_depthwise),
        variables=jax.tree.map(np.asarray, predictor.variables),
        preprocessing=predictor.preprocessing,
        temperature=predictor.temperature,
        explained=tuple(explained) if predictor.has_gradcam else (),
    )


def _plain(model: Any, **more: Any) -> Any:
    """The same network in plain form, computed in float32; its frozen parts too."""
    options: dict[str, Any] = {"form": "plain", "dtype": "float32", **more}
    if isinstance(model, DeepCXRNet):
        options["parts"] = tuple(
            FrozenPart(part.name, _plain(part.model, **more)) for part in model.parts
        )
    return model.clone(**options)
