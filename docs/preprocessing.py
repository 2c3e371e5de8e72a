"""Draws docs/preprocessing.png: one phantom slice after each of the paper's five steps."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from jaxcovid.data.phantom import slice
from jaxcovid.data.preprocessing import Preprocessing

image, _ = slice.draw_slice(patient=3, index=1, label="COVID-19")
steps = {"slice": image, **Preprocessing().steps(image, np.random.default_rng(5))}
figure = Figure(figsize=(12, 2.6), layout="constrained")
for axes, (name, picture) in zip(figure.subplots(1, len(steps)), steps.items(), strict=True):
    axes.imshow(np.squeeze(picture), cmap="gray")
    axes.set_title(f"{name}\n{picture.shape[0]}x{picture.shape[1]}", fontsize=9)
    axes.set_axis_off()
figure.savefig(Path(__file__).with_suffix(".png"), dpi=100)
