"""The data card: what a prepared data set holds, on one page that opens without a network."""

import collections
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from etils import epath
from PIL import Image

from jaxcovid.data.datasets import Dataset, Record
from jaxcovid.data.decoding import decode_gray
from jaxcovid.data.png import encode_png
from jaxcovid.data.structures import FEATURES
from jaxcovid.report import pages
from jaxcovid.runtime import files

CARD_FILE = "card.html"  # beside the data
_SHOWN = 6  # images of a class or finding
_TILE = 128  # side of an image of the contact sheet, px
_AGES = range(0, 101, 10)
_MASK_TITLES = {"lungs": "Lung mask", "lesion": "Lesion mask"}


def ensure_card(dataset: Dataset) -> epath.Path:
    """The path of the card, which is written if it is not there."""
    path = dataset.directory / CARD_FILE
    return path if path.exists() else write_card(dataset)


@dataclass(frozen=True)
class Survey:
    """What the records of a data set say, by class or finding.

    Attributes:
        tables: Images by title, as in "Sex", then by group and value.
        patients: Of each group.
        ages: In years, of the images that have one.
        tiles: The first images, uint8 [side, side].
        sizes: Width and height of every image, px.
    """

    tables: Mapping[str, collections.Counter]
    patients: Mapping[str, set[str]]
    ages: Mapping[str, list[int]]
    tiles: Mapping[str, list[np.ndarray]]
    sizes: list[tuple[int, int]]

    def pictures(self) -> dict[str, bytes]:
        """PNG by name: `sheet`, and `ages` if any is known."""
        pictures = {"sheet": _contact_sheet(self.tiles)}
        if any(self.ages.values()):
            pictures["ages"] = _age_figure({x: ages for x, ages in self.ages.items() if ages})
        return pictures


def survey(dataset: Dataset) -> Survey:
    """Reads every record once."""
    groups = dataset.class_names or dataset.finding_names
    tables: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    found = Survey(
        tables, {x: set() for x in groups}, {x: [] for x in groups}, {x: [] for x in groups}, []
    )
    for split in dataset.split_sizes:
        for record in dataset.source(split):
            header = Image.open(io.BytesIO(record["image"]))
            found.sizes.append(header.size)
            for group in _groups(dataset, record):
                found.patients[group].add(record["patient"])
                tables["Format"][group, f"{header.format} {header.mode}"] += 1
                for field, title in (("view", "View"), ("sex", "Sex")):
                    if field in record:
                        tables[title][group, record[field] or "unknown"] += 1
                for structure in dataset.masks:
                    known = "known" if record[FEATURES[structure]] else "unknown"
                    tables[_MASK_TITLES[structure]][group, known] += 1
                if record.get("age", -1) >= 0:
                    found.ages[group].append(record["age"])
                if len(found.tiles[group]) < _SHOWN:
                    found.tiles[group].append(_tile(record["image"]))
    return found


def write_card(dataset: Dataset) -> epath.Path:
    """Reads every record once and writes the card beside the data.

    Returns:
        Path of the page.
    """
    groups = dataset.class_names or dataset.finding_names
    found = survey(dataset)
    page = pages.render_page(
        "card.html.jinja",
        found.pictures(),
        dataset=dataset,
        groups=groups,
        tables={title: _table(counter, groups) for title, counter in found.tables.items()},
        sides={
            name: " x ".join(str(int(value)) for value in values)
            for name, values in zip(
                ("smallest", "median", "largest"),
                np.quantile(np.array(found.sizes), (0, 0.5, 1), axis=0),
                strict=True,
            )
        },
        rows=list(found.tiles),
    )
    path = dataset.directory / CARD_FILE
    files.write_atomically(path, page.encode())
    return path


def _groups(dataset: Dataset, record: Record) -> list[str]:
    """The class of a record, or its findings."""
    if dataset.class_names:
        return [dataset.class_names[record["label"]]]
    return [name for name, value in record["findings"].items() if value == 1]


def _table(counter: collections.Counter, groups: Any) -> dict[str, Any]:
    """Counts by group, in columns by value, most common first."""
    values = collections.Counter()
    for (_, value), count in counter.items():
        values[value] += count
    columns = [value for value, _ in values.most_common()]
    return {"columns": columns, "counts": {g: [counter[g, v] for v in columns] for g in groups}}


def _tile(data: bytes) -> np.ndarray:
    gray = decode_gray(data)
    scale = _TILE / max(gray.shape)
    height, width = (max(1, round(scale * n)) for n in gray.shape)
    tile = np.full((_TILE, _TILE), 255, np.uint8)
    top, left = (_TILE - height) // 2, (_TILE - width) // 2
    small = cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA)
    tile[top : top + height, left : left + width] = small
    return tile


def _contact_sheet(tiles: Mapping[str, list[np.ndarray]]) -> bytes:
    """PNG: a row of images for each class or finding, in their order."""
    blank = np.full((_TILE, _TILE), 255, np.uint8)
    rows = [np.hstack([*row, *[blank] * (_SHOWN - len(row))]) for row in tiles.values()]
    return encode_png(np.vstack(rows))


def _age_figure(ages: Mapping[str, list[int]]) -> bytes:
    """PNG: share of the images by age, for each class or finding."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    weights = [np.full(len(values), 100 / len(values)) for values in ages.values()]
    names = [f"{name} ({len(values)})" for name, values in ages.items()]
    if len(ages) <= 4:
        axes.hist(list(ages.values()), bins=_AGES, weights=weights, label=names)
        axes.legend()
    else:  # findings overlap, and their bars would be too thin
        everyone = np.concatenate([np.array(values) for values in ages.values()])
        axes.hist(everyone, bins=_AGES, weights=np.full(everyone.size, 100 / everyone.size))
    axes.set(xlabel="age, years", ylabel="share of images, %", xticks=list(_AGES))
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
