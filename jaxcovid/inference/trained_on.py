"""Which images and patients a network has learned from, in all trainings that led to it.

Beside the hashes of its own training a workdir has those of its frozen parts, in `parts/NAME`, and
those of the trainings that its initial weights and its teachers came from, in `init/NUMBER`.
"""

from pathlib import Path

from absl import logging

from jaxcovid.data import identity
from jaxcovid.inference.frozen_parts import FOLDER as PARTS_FOLDER
from jaxcovid.runtime.files import write_atomically
from jaxcovid.workdir.run import Run


def trained_on(workdir: Path, run: Run) -> dict[str, list[identity.Identities]]:
    """Hashes of the images and patients that a network has learned from.

    Args:
      workdir: of the run.
      run: what it says.

    Returns:
      Those of each training, for the splits `train` and `validation`. The splits of an early
      version, which kept none, are left out with a warning.

    Raises:
      ValueError: a file of them is damaged.
    """
    used: dict[str, list[identity.Identities]] = {"train": [], "validation": []}
    for folder in _trainings(workdir, run):
        if not (folder / identity.TRAINED_ON_FILE).exists():
            logging.warning(
                "%s does not say which images it was trained on (an earlier version wrote it): "
                "whether this is a test is not checked",
                folder,
            )
            continue
        for split, identities in identity.load(folder / identity.TRAINED_ON_FILE).items():
            used[split].append(identities)
    return used


def carry_initial(workdir: Path, *sources: Path) -> None:
    """Copies into a workdir what others have learned from, whose weights it learns from.

    Args:
      workdir: of a new run.
      *sources: the workdirs of its initial weights and of its teachers.

    Raises:
      ValueError: one of the latter is no workdir.
      OSError: it cannot be copied.
    """
    folders = [folder for source in sources for folder in _trainings(source, Run.load(source))]
    for number, folder in enumerate(folders):
        target = workdir / identity.INIT_FOLDER / str(number)
        target.mkdir(parents=True, exist_ok=True)
        if (folder / identity.TRAINED_ON_FILE).exists():
            hashes = (folder / identity.TRAINED_ON_FILE).read_bytes()
            write_atomically(target / identity.TRAINED_ON_FILE, hashes)


def _trainings(workdir: Path, run: Run) -> list[Path]:
    """The folders of a workdir that hold hashes of a training, or should."""
    own = [workdir, *(workdir / PARTS_FOLDER / name for name in run.parts)]
    return own + [
        path for folder in own for path in sorted((folder / identity.INIT_FOLDER).glob("*"))
    ]
