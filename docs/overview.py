"""Draws docs/overview.png: a slice, the heatmap of a network, and the report of its evaluation.

The slice is the test image of which the network is surest that it shows COVID-19. First the
picture of the report, by any Chromium:

    chromium --headless --hide-scrollbars --window-size=1000,1180 \
        --screenshot=docs/report.png runs/quickstart/evaluation/test/report.html
    python docs/overview.py runs/quickstart
"""

import csv
import io
import sys
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from jaxcovid.data.datasets import open_dataset
from jaxcovid.inference import predictor
from jaxcovid.report.figures import overlay

FOLDER = Path(__file__).parent
OUTLINE = "#56b4e9"


def surest_hit(workdir: Path) -> str:
    """The id of the positive test image of highest probability."""
    with (workdir / "evaluation" / "test" / "predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["label"] == "1"]
    return max(rows, key=lambda row: float(row["probability"]))["id"]


def gray_of(encoded: bytes) -> np.ndarray:
    """The gray image, uint8 [h, w], of an encoded one."""
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)


def main(workdir: Path) -> None:
    """Draws the three pictures beside each other."""
    wanted = surest_hit(workdir)
    test = open_dataset("phantom").source("test")
    record = next(record for record in test if record["id"] == wanted)
    image, lesion = gray_of(record["image"]), gray_of(record["mask"]) > 0
    heatmap = predictor.load(workdir).heatmaps([image])[0]
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
    Image.open(drawn).convert("RGB").quantize(256).save(FOLDER / "overview.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
