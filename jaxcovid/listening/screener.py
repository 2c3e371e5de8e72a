"""A network looks at one series, picture or volume and says what it makes of the whole."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxcovid.data import dicom, volumes
from jaxcovid.data.image_error import read_file
from jaxcovid.data.image_files import text_of
from jaxcovid.inference.network import Network
from jaxcovid.inference.screening import Reading, Row, parse_threshold, screen

_MOST_OUTPUTS = 5  # in a picture


@dataclass(frozen=True)
class Screened:
    """What a network makes of a series, a picture or a volume.

    Attributes:
      path: of the file of its most suspicious image.
      gray: that image, uint8 [h, w].
      heatmap: float32 [any, any] in 0 to 1, of that image; None of a network without.
      masks: bool [h, w, 2], lungs and lesion, of that image; None of a network without.
      lines: what a picture says, in lines of text.
      images: how many it is about.
      probability: of the positive class; empty of a network for findings.
      decision: empty of a network for findings.
      outputs: of all outputs name and probability.
      involved: share of the lungs, 0 to 1; empty of a network without a decoder.
      grade: likewise.
      warning: images that are not of the kind that the network was trained on.
      error: images and masks that could not be used or made.
    """

    path: Path
    gray: np.ndarray
    heatmap: np.ndarray | None
    masks: np.ndarray | None
    lines: tuple[str, ...]
    images: int
    probability: str
    decision: str
    outputs: str
    involved: str
    grade: str
    warning: str
    error: str


@dataclass(frozen=True)
class Screener:
    """A network and how its answers are put.

    Attributes:
      network: what looks.
      name: of the network, for people.
      threshold: see `screening.screen`.
    """

    network: Network
    name: str
    threshold: str = "youden"

    def check(self) -> None:
        """Raises a ValueError if the network has no such threshold."""
        if self.network.task.screens:
            parse_threshold(self.threshold, self.network.thresholds)

    def screen(self, files: Sequence[Path], folder: Path) -> Screened:
        """Screens the files of one series, or one picture or volume.

        Args:
          files: all of it.
          folder: gets the masks, of a network that segments: `segmentation.dcm`, `.nii.gz` or
            `.png`.

        Raises:
          ValueError: nothing of it can be screened; says why.
          OSError: a file cannot be read or written.
        """
        rows, error = self._rows(files, folder)
        singles = [row for row in rows if row["images"] == 1]
        usable = [row for row in singles if not row["error"]]
        if not usable:
            raise ValueError(
                singles[0]["error"]
                if singles
                else "no image to screen: scouts, slices that are not axial or no pixels"
            )
        groups = [row for row in rows if row["images"] == len(usable) and not row["error"]]
        whole = groups[-1] if groups else None
        if whole is None:
            raise ValueError("several files of several frames each; send each as its own series")
        if unusable := len(singles) - len(usable):
            error = "; ".join(filter(None, [f"{unusable} images could not be used", error]))
        worst = max(usable, key=self._suspicion)
        path, gray = self._open(worst["id"], files)
        network = self.network
        warned = [row["warning"] for row in usable if row["warning"]]
        warning = f"{len(warned)} of {len(usable)} images: {warned[0]}" if warned else ""
        masks = network.segment([gray])[0] >= 0.5 if network.segments else None
        return Screened(
            path=path,
            gray=gray,
            heatmap=self._heatmap(gray, worst),
            masks=masks,
            lines=self._lines(whole, worst, warning, error),
            images=len(usable),
            probability=whole.get("probability", ""),
            decision=whole.get("decision", ""),
            outputs="; ".join(f"{name} {p:.6f}" for name, p in self._outputs(whole)),
            involved=whole.get("involved", ""),
            grade=whole.get("grade", ""),
            warning=warning,
            error=error,
        )

    def _rows(self, files: Sequence[Path], folder: Path) -> tuple[list[Row], str]:
        """The rows of `screening.screen`, and why masks could not be written."""
        rows: list[Row] = []
        if not self.network.segments:
            return list(self._screen(files, None)), ""
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            error, masks = "", Path(temporary) / "masks"
            try:
                rows.extend(self._screen(files, Path(temporary)))
            except ValueError as failure:
                if not masks.exists():  # which is made when all rows are there
                    raise
                error = f"masks: {failure}"
            made = sorted(masks.iterdir()) if masks.exists() else []
            for number, path in enumerate(made):
                suffix = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
                name = f"segmentation{f'_{number + 1}' if number else ''}{suffix}"
                shutil.move(path, folder / name)
        return rows, error

    def _screen(self, files: Sequence[Path], segment: Path | None) -> Any:
        threshold = self.threshold if self.network.task.screens else "youden"
        return screen(lambda: self.network, files, Reading(), threshold=threshold, segment=segment)

    def _outputs(self, row: Row) -> list[tuple[str, float]]:
        """Of each output name and probability."""
        names = self.network.outputs
        keys = [f"probability_{name.replace(' ', '_')}" for name in names]
        if self.network.task.screens:
            keys[0] = "probability"
        return [(name, float(row[key])) for name, key in zip(names, keys, strict=True)]

    def _suspicion(self, row: Row) -> tuple[float, float]:
        """What makes an image more suspicious than another."""
        _, probability = self._outputs(row)[self._leading(row)]
        return probability, float(row.get("involved") or 0)

    def _leading(self, row: Row) -> int:
        """See `Task.leading`."""
        return self.network.task.leading([p for _, p in self._outputs(row)])

    def _heatmap(self, gray: np.ndarray, row: Row) -> np.ndarray | None:
        """Of the positive class, of a network for findings of the most probable one."""
        if not self.network.has_gradcam:
            return None
        heatmap: np.ndarray = self.network.heatmaps([gray], output=self._leading(row))[0]
        return heatmap

    def _open(self, name: str, files: Sequence[Path]) -> tuple[Path, np.ndarray]:
        """The file and the gray image uint8 [h, w] of the row of this name."""
        for path in files:
            whole, header = text_of(path), dicom.header_of(path)
            if volumes.is_volume(path, header) and name.startswith(f"{whole}#"):
                volume = volumes.open_volume(
                    path, modality=self.network.modality, window=self.network.window
                )
                return path, volume.gray(int(name.removeprefix(f"{whole}#")))
            if name == whole:
                return path, self.network.sight.read_gray(read_file(path))
        raise ValueError("the most suspicious image is not one of the files")

    def _lines(self, whole: Row, worst: Row, warning: str, error: str) -> tuple[str, ...]:
        """What a picture says."""
        several = f" (mean of {whole['images']} images)" if whole["images"] > 1 else ""
        lines = []
        if self.network.task.screens:
            name = self.network.outputs[0]
            lines.append(f"{name}: probability {float(whole['probability']):.3f}{several}")
            lines.append(f"Decision: {whole['decision']}")
            if several:
                lines.append(f"Shown: the image of probability {float(worst['probability']):.3f}")
        else:
            ranked = sorted(self._outputs(whole), key=lambda each: -each[1])[:_MOST_OUTPUTS]
            lines += [f"{name}: {p:.3f}{several}" for name, p in ranked]
        lines += _involvement_lines(whole)
        if warning:
            lines.append(f"WARNING: {warning}"[:100])
        if error:
            lines.append("WARNING: not all images or masks could be used")
        return (*lines, f"Network: {self.name}")


def _involvement_lines(row: Mapping[str, Any]) -> list[str]:
    """How much of the lungs is involved, if that is known."""
    if not row.get("involved") or row["involved"] == "nan":
        return []
    return [f"Lungs involved: {100 * float(row['involved']):.1f} % ({row['grade']})"]
