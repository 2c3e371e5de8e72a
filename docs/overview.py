"""Draws docs/overview.png: a slice, where a network sees a lesion, and the report on it.

The slice is a typical one: of the test images with COVID-19 the one of which the decoder's map lies
in the lesion to the median extent, neither the best nor the worst. First the picture of the report,
by any Chromium:

    chromium --headless --hide-scrollbars --window-size=1000,1180 \
        --screenshot=docs/report.png runs/quickstart/evaluation/test/report.html
    python docs/overview.py runs/quickstart
"""

import io
import sys
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from jaxcovid.data.opening import open_dataset
from jaxcovid.data.structures import STRUCTURES
from jaxcovid.inference import predictor
from jaxcovid.inference.overlay import overlay

FOLDER = Path(__file__).parent
LESION = STRUCTURES.index("lesion")
OUTLINE = "#56b4e9"


def gray_of(encoded: bytes) -> np.ndarray:
    """The gray image, uint8 [h, w], of an encoded one."""
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)


def gain(heatmap: np.ndarray, lesion: np.ndarray) -> float:
    """Share of a heatmap that is inside the lesion, bool [h, w], over its share of the area."""
    height, width = lesion.shape
    large = cv2.resize(heatmap, (width, height))
    return float(large[lesion].sum() / large.sum() / lesion.mean())


def main(workdir: Path) -> None:
    """Draws the three pictures beside each other."""
    phantom = open_dataset("phantom")
    positive = phantom.class_names.index("COVID-19")
    records = [record for record in phantom.source("test") if record["label"] == positive]
    images = [gray_of(record["image"]) for record in records]
    lesions = [gray_of(record["lesion_mask"]) > 0 for record in records]
    heatmaps = [masks[..., LESION] for masks in predictor.load(workdir).segment(images)]
    order = np.argsort([gain(*pair) for pair in zip(heatmaps, lesions, strict=True)])
    typical = order[len(order) // 2]
    image, lesion, heatmap = images[typical], lesions[typical], heatmaps[typical]
    report = cv2.cvtColor(cv2.imread(str(FOLDER / "report.png")), cv2.COLOR_BGR2RGB)
    height, width = image.shape
    page = report[: report.shape[1] * 10 // 11]
    widths = [width / height, width / height, page.shape[1] / page.shape[0]]
    figure = Figure(figsize=(3.2 * sum(widths), 3.2), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=widths)
    axes[0].imshow(image, cmap="gray")
    axes[1].imshow(overlay(image, heatmap))
    axes[1].contour(lesion, levels=[0.5], colors=OUTLINE, linewidths=1.2)
    axes[2].imshow(page, interpolation="lanczos")
    for picture in axes:
        picture.set_xticks([])
        picture.set_yticks([])
        for side in picture.spines.values():
            side.set_color("0.8")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120)
    picture = Image.open(drawn).convert("RGB")
    palette = picture.quantize(256)
    picture.quantize(palette=palette).save(FOLDER / "overview.png", optimize=True)  # dithered


if __name__ == "__main__":
    main(Path(sys.argv[1]))
