"""The lungs of the splits of a training, marked once and kept in its workdir.

`WORKDIR/lungs/SPLIT-KEY.npy` holds the marks of a split, uint8 [n, size * size / 8], see
`LungFocus.clean`. The key is that of the marking network's weights, the data and the ablation.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import logging
from jax.sharding import Mesh

from jaxcovid.data.lung_focus import FocusedSource
from jaxcovid.inference.frozen_parts import LUNGS, Part
from jaxcovid.inference.lung_finder import focus_of, open_finder
from jaxcovid.runtime import distributed
from jaxcovid.runtime.files import write_atomically
from jaxcovid.training.splits import Split
from jaxcovid.training.validation import validation_workers
from jaxcovid.workdir.run import Run

FOLDER = "lungs"
Splits = Mapping[str, Split]  # by name


def focus_splits(
    splits: Splits, workdir: Path, *, run: Run, part: Part, mesh: Mesh, workers: int
) -> dict[str, Split]:
    """Splits with what is shown of their records; every process gets the same.

    Marks that the workdir holds are used again, so that a resumed run sees what it saw.

    Args:
      splits: of the training.
      workdir: of the run; nothing is written.
      run: that is shown the lungs.
      part: that marks them.
      mesh: the devices.
      workers: of the training, see `pipeline.train_batches`.
    """
    focused, focus, finder = {}, focus_of(part.run, run.config), None
    for name, split in splits.items():
        shape = (len(split.source), -(-(focus.marked.size**2) // 8))
        bits = _load(_file(workdir, name, run), shape)
        if bits is None:
            logging.info("Marking the lungs of the %d images of the %s split", shape[0], name)
            finder = finder or open_finder(part, run.config, mesh)
            bits = finder.mark(
                split.source,
                ablation=split.ablation,
                workers=validation_workers(workers, len(split.source)),
            )
        source = FocusedSource(split.source, focus, bits)
        logging.info(
            "No lungs were found in %d of the %d images of the %s split; these are shown whole",
            source.without_lungs,
            len(source),
            name,
        )
        focused[name] = dataclasses.replace(split, source=source)
    return focused


def save(splits: Splits, workdir: Path, *, run: Run) -> None:
    """Writes the marks of splits that `focus_splits` made, unless the workdir holds them.

    Raises:
      OSError: they cannot be written.
    """
    for name, split in splits.items():
        file = _file(workdir, name, run)
        if not isinstance(split.source, FocusedSource) or file.exists():
            continue
        file.parent.mkdir(exist_ok=True)
        content = io.BytesIO()
        np.save(content, split.source.bits)
        write_atomically(file, content.getvalue())


def _file(workdir: Path, split: str, run: Run) -> Path:
    marked = json.dumps([run.parts[LUNGS].weights, run.dataset.digest, run.ablation])
    return workdir / FOLDER / f"{split}-{hashlib.sha256(marked.encode()).hexdigest()[:16]}.npy"


def _load(file: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The marks in a file, as the first process reads it; None if it holds none of that shape."""
    bits = None
    if distributed.is_main() and file.exists():
        try:
            bits = np.load(io.BytesIO(file.read_bytes()), allow_pickle=False)
        except (ValueError, EOFError) as error:
            logging.warning("%s is damaged (%s): the lungs are marked anew", file, error)
        if bits is not None and (bits.shape, bits.dtype) != (shape, np.uint8):
            logging.warning("%s holds %s, not %s: marked anew", file, bits.shape, shape)
            bits = None
    if not distributed.from_main(np.bool_(bits is not None)):
        return None
    return distributed.from_main(np.zeros(shape, np.uint8) if bits is None else bits)
